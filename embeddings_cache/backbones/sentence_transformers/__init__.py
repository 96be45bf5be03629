"""Sentence encoders of sentence-transformers."""

from embeddings_cache.backbones._registry import OFF, Family, register

FAMILY = register(
    Family(
        prefix="sentence-transformers",
        builder=f"{__name__}._network",
        modalities=("text",),
        example="sentence-transformers:all-MiniLM-L6-v2",
        order=3,
        extra="text",
        distributions=("sentence-transformers", "transformers", "tokenizers"),
        packages={
            "sentence_transformers": "sentence-transformers",
            "transformers": "transformers",
        },
        loading_options={
            **dict.fromkeys(
                (
                    "state_dict", "gguf_file", "from_tf", "from_flax", "config",
                    "adapter_kwargs", "adapter_name", "trust_remote_code",
                    "code_revision", "backend", "file_name", "export", "use_kernels",
                    "kernel_config", "allow_all_kernels", "cache_dir", "cache_folder",
                    "offload_folder",
                ),
                OFF,
            ),
            "use_safetensors": (True,),
            "weights_only": (True,),
        },
        folders=True,
    )
)  # fmt: skip
