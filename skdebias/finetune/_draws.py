"""Random numbers that passes of a network draw."""

from torch import nn

# Of torch's own modules, those whose passes may draw random numbers.
_DRAWING = ("Dropout", "RReLU", "Fractional", "Attention", "Transformer", "RNN", "LSTM",
            "GRU")  # fmt: skip


def may_draw(networks: nn.Module) -> bool:
    """Return whether passes in training may draw random numbers.

    Parameters
    ----------
    networks : torch.nn.Module

    Returns
    -------
    bool
        False if every part is a module of torch, or of this package, that draws none.
    """
    known_modules = ("torch.nn.modules.", "skdebias.finetune.")
    for module in networks.modules():
        kind = type(module)
        known = kind.__module__.startswith(known_modules)
        # torch has no other way to say which hooks a module has.
        hooked = module._forward_hooks or module._forward_pre_hooks
        patched = "forward" in vars(module)
        named = any(name in kind.__name__ for name in _DRAWING)
        drawing = named and getattr(module, "p", 1) != 0
        if not known or hooked or patched or drawing:
            return True
    return False
