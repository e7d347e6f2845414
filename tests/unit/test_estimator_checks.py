"""scikit-learn's own checks of an estimator, and its own tests of KMeans with the class exchanged."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from gpukm import KMeans, MiniBatchKMeans

SAMPLE_WEIGHTS = "k-means starts from other draws when rows are weighted; scikit-learn's KMeans declares the same"
EXPECTED_TO_FAIL = {
    "check_sample_weight_equivalence_on_dense_data": SAMPLE_WEIGHTS,
    "check_sample_weight_equivalence_on_sparse_data": SAMPLE_WEIGHTS,
}


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([KMeans(), MiniBatchKMeans()], expected_failed_checks=lambda estimator: EXPECTED_TO_FAIL)
def test_sklearn_check(estimator, check):
    check(estimator)
