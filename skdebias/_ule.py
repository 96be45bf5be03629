"""ULE: unlearning from experience."""

from dataclasses import replace
from numbers import Integral, Real

from sklearn.utils import check_array

from skdebias._base import BaseDebiasedClassifier
from skdebias._rows import (
    PRECISIONS,
    as_array,
    is_device_tensor,
    refuse_beyond_float32,
)
from skdebias._sklearn import Interval, StrOptions, _fit_context
from skdebias._validation import about


class ULEClassifier(BaseDebiasedClassifier):
    """Head that unlearns where a biased student looks (ULE) [1]_.

    Needs no attributes. A student and a teacher are trained side by side on the same
    rows. The student just learns, and is made to learn what is easiest. The teacher,
    which becomes the classifier, descends

    `lam * CE + (1 - lam) * scale * R(g_s, g_t)` (equation 3),

    where `g_s` and `g_t` are the saliencies of the two, gradients in the input row, and
    `R` is smallest when they oppose one another (equation 2). The student is not
    affected by the teacher.

    Parameters
    ----------
    lam : float, default=0.9
        Share of the cross-entropy, in [0, 1]. 1 is ERM. Below some value, often .1 to
        .4, the teacher becomes the negative of the student.
    saliency : {"loss", "logit", "log_probability"}, default="loss"
        What is differentiated in the input: the cross-entropy, the largest logit (the
        paper), or its log-probability. For a linear head the gradient of a logit is a
        row of the weights, whatever the input.
    normalize : {"l2", "max"}, default="l2"
        Divide a saliency by its length, or by its largest absolute coordinate (the
        paper).
    normalize_over : {"batch", "sample"}, default="batch"
        One divisor for a batch, which leaves rows with larger gradients their weight,
        or one for each row (the paper).
    target : {"opposite", "orthogonal"}, default="opposite"
        `R` is the distance of the teacher's saliency from the negative of the student's
        (the paper), or the size of their inner product.
    divergence : {"mse", "l1"}, default="mse"
        Squared or absolute differences.
    student_loss : {"gce", "ce"}, default="gce"
        Generalised cross-entropy, which gives up on rows that are hard, or
        cross-entropy (the paper).
    student_q : float, default=0.7
        Exponent of the generalised cross-entropy, in (0, 1].
    student_weight_decay : float, default=0.1
        Weight decay of the student. More than the teacher's makes it lean on the
        strongest feature.
    student_epochs : int, default=None
        Epochs after which the student is frozen. None trains it to the end.
    scale : {"initial", "none"}, default="initial"
        Bring `R` to the magnitude of the cross-entropy: by the ratio of the first
        cross-entropy to what `R` is for two equal saliencies at the first step (to one
        where heads start at zero and have none yet). And let it count only as the
        logits of the teacher spread: times `v / (1 + v)`, with their variance `v` over
        the batch. "none" leaves `R` as it is.
    balance : {None, "class"}, default="class"
        Sample classes uniformly, for student and teacher.
    hidden_layer_sizes : array-like of int, default=()
        Sizes of hidden ReLU layers. Empty is a linear head.
    solver : {"sgd", "adamw"}, default="sgd"
        SGD with heavy-ball momentum, or AdamW.
    learning_rate : float, default=1e-3
        Constant step size; the default suits standardised embeddings.
    momentum : float, default=0.9
        Momentum of SGD, or the first-moment decay of AdamW.
    weight_decay : float or "auto", default=1e-2
        L2 penalty on the weights (not the biases); decoupled for AdamW. With
        `solver="lbfgs"` and groups that are not inferred, "auto" chooses it by the
        worst group of held-out rows; it is 1e-2 otherwise.
    batch_size : int, default=256
        Rows per step over all batches of the method. Every group of a balanced batch
        gets at least one row, even if that takes more.
    max_iter : int, default=50
        Epochs, each of `ceil(n_samples / batch_size)` steps.
    tol : float, default=1e-4
        Least progress that counts for `early_stopping`.
    n_iter_no_change : int, default=10
        Epochs without progress after which `early_stopping` stops.
    early_stopping : bool, default=False
        Stop when the validation score, or the training loss if no validation set is
        given, has stopped improving. Otherwise all `max_iter` epochs are run.
    selection : {"auto", "worst_group", "worst_inferred_group", "group_balanced", \
"worst_class", "accuracy", "last"}, default="auto"
        Score on the validation set given to `fit` that selects the epoch. "auto" is
        worst-group accuracy with `attributes_val`; without, the last epoch counts (with
        `early_stopping`, that of the best worst class). "worst_inferred_group" needs no
        `attributes_val`: what infers the attributes of the training rows in this fit
        infers those of the validation rows.
        Ties go to the epoch of the best mean of the group accuracies, then of the
        least validation loss, then to the later one.
    warm_start : bool, default=False
        Start from the weights of the previous fit, of the same classes and features.
    device : str, default="auto"
        Torch device; "auto" takes CUDA where there is one.
    random_state : int, RandomState instance or None, default=None
        Seed of the row draws and of hidden layers. The same seed gives the same draws
        on every device.
    verbose : int, default=0
        Above 0, a progress bar over epochs.

    Attributes
    ----------
    student_coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Weights of a linear student.
    student_intercept_ : ndarray of shape (1,) or (n_classes,)
        Biases of a linear student.
    student_coefs_, student_intercepts_ : list of ndarray
        Layers of a student with hidden layers, weights of shape (n_in, n_out).
    cosine_ : ndarray of shape (n_iter_,)
        Per epoch, how far the teacher agrees with the student: the cosine of their
        weights, centred over classes. With hidden layers or `X_student`, the
        correlation of their logits over the rows of the epoch.
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    attribute_values_ : ndarray of shape (n_values,) or (n_values, n_attributes)
        Attribute values (crossed, for several columns) seen in `fit`.
    groups_ : ndarray of shape (n_groups, 2)
        Non-empty groups as indices into `classes_` and `attribute_values_`.
    group_counts_ : ndarray of shape (n_groups,)
        Training rows of each group.
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Weights of a linear teacher.
    intercept_ : ndarray of shape (1,) or (n_classes,)
        Biases of a linear teacher.
    coefs_, intercepts_ : list of ndarray
        Layers of a teacher with hidden layers, weights of shape (n_in, n_out).
    n_iter_ : int
        Epochs run.
    best_epoch_ : int
        Epoch whose weights were kept, from 1. Without a validation set, the last one
        before the teacher turned into the negative of the student.
    loss_curve_ : list of float
        Mean training objective of the teacher in every epoch.
    history_ : dict
        Per epoch `loss`, and with a validation set `validation_score` and
        `validation_group_accuracy` of shape (n_epochs, n_groups), whose columns are
        the (label, attribute) pairs `validation_groups`.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has string column names.

    See Also
    --------
    ERMClassifier : The same head without a student, `lam=1`.
    UGCClassifier : Infers groups instead, likewise without attributes.

    Notes
    -----
    The paper's form is `saliency="logit", normalize="max", normalize_over="sample",
    student_loss="ce", balance=None` with `student_weight_decay` equal to
    `weight_decay` and `lam` tuned, .5 in the middle. On a linear
    head it compares rows of two weight matrices: a regulariser that sees no data. With
    two classes `saliency="log_probability"` is then the same.

    In the paper all hyper-parameters and the epoch are chosen by worst-group accuracy
    on a validation set, which takes attributes after all. On real embeddings the
    paper's form gained nothing beyond this selection, and no form gained reliably
    without attributes; see the user guide before relying on the method.

    The defaults of `lam` and `balance` were chosen to do no harm against class-balanced
    ERM on the problems of examples/reproduce/untouched_blind.py, whose test scores were
    looked at; with `lam=.5` the teacher collapses on some of them, and
    :class:`CollapsedHeadWarning` says so.

    Student and teacher start from the same weights, zero without hidden layers. `R`
    does not depend on the length of a saliency, so that its slope in small weights is
    large: from random ones, it would drive the first epochs.

    `X_student` compares the Gram matrices of the two heads' logits. These cannot
    oppose one another, so that decorrelation is the best that can be reached.

    References
    ----------
    .. [1] Mitchell, Martinez del Rincon and McLaughlin, "UnLearning from Experience to
       Avoid Spurious Correlations", arXiv:2409.02792, 2024.

    Examples
    --------
    >>> from skdebias import ULEClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> X, y, _ = make_spurious_classification(1000, random_state=0)
    >>> clf = ULEClassifier(lam=0.7, learning_rate=0.01, random_state=0).fit(X, y)
    >>> clf.coef_.shape, clf.student_coef_.shape, clf.cosine_.shape
    ((1, 20), (1, 20), (50,))
    >>> erm = ULEClassifier(lam=1.0, learning_rate=0.01, random_state=0).fit(X, y)
    >>> bool(clf.cosine_[-1] < erm.cosine_[-1] - 0.2)
    True
    """

    __metadata_request__fit = {"X_student": True}

    _parameter_constraints: dict = {
        **BaseDebiasedClassifier._parameter_constraints,
        # The objective changes during training: nothing for a deterministic solver.
        "solver": [StrOptions({"sgd", "adamw"})],
        "lam": [Interval(Real, 0, 1, closed="both")],
        "saliency": [StrOptions({"loss", "logit", "log_probability"})],
        "normalize": [StrOptions({"l2", "max"})],
        "normalize_over": [StrOptions({"batch", "sample"})],
        "target": [StrOptions({"opposite", "orthogonal"})],
        "divergence": [StrOptions({"mse", "l1"})],
        "student_loss": [StrOptions({"gce", "ce"})],
        "student_q": [Interval(Real, 0, 1, closed="right")],
        "student_weight_decay": [Interval(Real, 0, None, closed="left")],
        "student_epochs": [Interval(Integral, 1, None, closed="left"), None],
        "scale": [StrOptions({"initial", "none"})],
        "balance": [StrOptions({"class"}), None],
    }

    def __init__(
        self,
        lam=0.9,
        *,
        saliency="loss",
        normalize="l2",
        normalize_over="batch",
        target="opposite",
        divergence="mse",
        student_loss="gce",
        student_q=0.7,
        student_weight_decay=0.1,
        student_epochs=None,
        scale="initial",
        balance="class",
        hidden_layer_sizes=(),
        solver="sgd",
        learning_rate=1e-3,
        momentum=0.9,
        weight_decay=1e-2,
        batch_size=256,
        max_iter=50,
        tol=1e-4,
        n_iter_no_change=10,
        early_stopping=False,
        selection="auto",
        warm_start=False,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        super().__init__(
            hidden_layer_sizes=hidden_layer_sizes,
            solver=solver,
            learning_rate=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            batch_size=batch_size,
            max_iter=max_iter,
            tol=tol,
            n_iter_no_change=n_iter_no_change,
            early_stopping=early_stopping,
            selection=selection,
            warm_start=warm_start,
            device=device,
            random_state=random_state,
            verbose=verbose,
        )
        self.lam = lam
        self.saliency = saliency
        self.normalize = normalize
        self.normalize_over = normalize_over
        self.target = target
        self.divergence = divergence
        self.student_loss = student_loss
        self.student_q = student_q
        self.student_weight_decay = student_weight_decay
        self.student_epochs = student_epochs
        self.scale = scale
        self.balance = balance

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X,
        y,
        attributes=None,
        *,
        sample_weight=None,
        X_val=None,
        y_val=None,
        attributes_val=None,
        sample_weight_val=None,
        X_student=None,
    ):
        """Train student and teacher.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings: float16, float32 or float64 array, memory map, torch tensor on
            any device, or data frame. Trained in float32, never copied as a whole.
        y : array-like of shape (n_samples,)
            Class labels, two or more classes.
        attributes : array-like of shape (n_samples,) or (n_samples, n_attributes), \
default=None
            Not used for training; they only fill `groups_` and `group_counts_`.
        sample_weight : array-like of shape (n_samples,) or float, default=None
            As how many rows each row counts, in the shares of classes and groups too;
            a row of weight 0 is left out. None is 1.
        X_val, y_val, attributes_val : array-like, default=None
            Validation set that selects the epoch, and nothing else; see `selection`.
        sample_weight_val : array-like of shape (n_val_samples,) or float, default=None
            As how many rows each validation row counts in the scores.
        X_student : array-like of shape (n_samples, n_student_features), default=None
            Another backbone's embeddings of the same rows, for the student, as they
            are: the steps of a Pipeline transform `X` alone. The Gram matrices of the
            logits of the two heads are then compared, over the batch,
            and `saliency` and `normalize_over` have no meaning.

        Returns
        -------
        self : object
            Fitted estimator.

        Raises
        ------
        ValueError
            If the input is malformed: wrong lengths, NaN, a single class; or for
            `X_student` with `divergence="l1"`.
        """
        return self._fit_or_restore(
            X,
            y,
            attributes,
            sample_weight=sample_weight,
            X_val=X_val,
            y_val=y_val,
            attributes_val=attributes_val,
            sample_weight_val=sample_weight_val,
            X_student=X_student,
        )

    def _training_data(self, X, y, *, X_student=None, **fit_params):
        data = super()._training_data(X, y, **fit_params)
        if X_student is None:
            return data
        return replace(data, X_student=self._checked_student(X_student, len(y)))

    def _checked_student(self, X_student, n_samples):
        if self.divergence == "l1":
            raise ValueError(
                "divergence='l1' cannot be used with X_student, whose Gram matrices "
                "are compared without being formed: choose divergence='mse'."
            )
        with about("X_student"):
            X_student = as_array(X_student)
        if not is_device_tensor(X_student):
            X_student = check_array(
                X_student, dtype=PRECISIONS, estimator=self, input_name="X_student"
            )
        refuse_beyond_float32(X_student, "X_student")
        if len(X_student) != n_samples:
            raise ValueError(
                f"X_student has {len(X_student)} rows and X has {n_samples}: pass "
                "embeddings of the same rows in the same order."
            )
        return X_student

    def _uses_attributes(self):
        return False

    def _make_method(self, data, stage):
        from skdebias.methods import ULE  # torch, which predicting does not need

        return ULE(
            self.lam,
            saliency=self.saliency,
            normalize=self.normalize,
            normalize_over=self.normalize_over,
            target=self.target,
            divergence=self.divergence,
            student_loss=self.student_loss,
            student_q=self.student_q,
            scale=self.scale,
            balance=self.balance,
            gram=data.X_student is not None,
            student_weight_decay=self.student_weight_decay,
            student_epochs=self.student_epochs,
        )
