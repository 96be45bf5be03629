"""What unlearning from experience (ULE) computes at each step, in small modules.

A student and a teacher are trained side by side, and the teacher is penalised where its
input saliency does not oppose the student's. The method itself is beside the others, in
:mod:`skdebias.methods._ule`. Here is how a step of a whole stack of them is computed:

* `_loss_weights`: how the cross-entropies of both count;
* `_penalty`: the second term of the teachers' objectives, and their guard;
* `_pairs`: the students and teachers of a penalty, out of the stack;
* `_coefficients`: which combination of its logits is differentiated for a row;
* `_opposition`: how far two batches of saliencies are from opposing each other;
* `_logits`, `_watch`: centred logits, and what an epoch showed.

The axes are the same everywhere:

* `S` streams, each with the rows of one fold;
* `M = 2 n_methods` heads in each stream, the student of method `m` at `2 m` and its
  teacher at `2 m + 1`;
* `R` rows of a step, and `n_logits`, one for two classes;
* `B` pairs, streams in order: `S` times the methods that are compared at the same time,
  which agree in all but `lam` and the student's weight decay.

A step has its losses as (S, R, M) and its logits as (S, R, M, n_logits); weights of
layers, and what is shown at the end of an epoch, are flat, (S * M, ...). Inside
`_pairs`, `_coefficients` and `_opposition` pairs come first: (B, R, ...).
"""
