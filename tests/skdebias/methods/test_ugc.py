"""UGC: robust training over clusters."""

import numpy as np
import torch

from skdebias._groups import Groups
from skdebias.methods import TrainingContext
from skdebias.methods._group_dro import GroupDRO
from skdebias.methods._ugc import robust_method

CPU = torch.device("cpu")


def _groups(y, clusters):
    return Groups.from_labels(y, clusters, 2, 2)


Y = np.array([0] * 10 + [1] * 10)
CLUSTERS = np.array([0] * 8 + [1] * 2 + [0] * 9 + [1])


def _share_of_groups(plan, groups):
    """Expected share of the (class, cluster) cells under a plan."""
    row = (
        plan.batches[0].probabilities[plan.strata]
        / np.bincount(plan.strata)[plan.strata]
    )
    return np.bincount(groups.ids, weights=row)


def test_inverse_frequency_counts_cells_or_clusters_alike():
    groups = _groups(Y, CLUSTERS)
    per_class = robust_method("inverse_frequency", groups)
    share = _share_of_groups(per_class.plan(groups), groups)
    np.testing.assert_allclose(share, 0.25)
    paper = robust_method("inverse_frequency", groups, across_classes=True)
    share = _share_of_groups(paper.plan(groups), groups)
    np.testing.assert_allclose(share, [8 / 34, 1 / 3, 9 / 34, 1 / 6])


def test_feature_magnitude_shares_follow_the_mean_norm():
    groups = _groups(Y, CLUSTERS)
    norms = np.where(CLUSTERS == 1, 3.0, 1.0)
    norms[0] = 9.0  # cell (0, 0) has mean norm 2
    method = robust_method("feature_magnitude", groups, norms=norms)
    share = _share_of_groups(method.plan(groups), groups)
    np.testing.assert_allclose(share, np.array([2, 3, 1, 3]) / 9)
    flat = robust_method("feature_magnitude", groups, norms=np.zeros(20))
    np.testing.assert_allclose(_share_of_groups(flat.plan(groups), groups), 0.25)


def test_group_dro_runs_over_cells_or_clusters():
    groups = _groups(Y, CLUSTERS)
    method = robust_method("group_dro", groups, step_size=0.3)
    assert method == GroupDRO(0.3)
    paper = robust_method("group_dro", groups, step_size=0.3, across_classes=True)
    np.testing.assert_array_equal(paper.plan(groups).strata, CLUSTERS)
    setting = TrainingContext((groups,), 20, CPU)
    rule = type(paper).weighting([paper], setting)
    np.testing.assert_allclose(rule.q.flatten(), [0.5, 0.5])
