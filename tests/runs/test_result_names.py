from __future__ import annotations

from simclr_plus.runs.result_names import LONGEST, changed_settings, described, result_name


def test_a_name_tells_what_was_evaluated_and_what_was_changed() -> None:
    usual = {"epochs": 90, "learning_rate": 0.1, "optimizer": "nesterov"}
    assert result_name("linear", "step_00012500", "", changed=changed_settings(dict(usual), usual)) == (
        "linear_step_00012500"
    )
    changed = changed_settings(usual | {"epochs": 30, "learning_rate": 0.05, "rates": [0.02, 1e-4]}, usual)
    assert changed == {"epochs": 30, "learning_rate": 0.05, "rates": [0.02, 1e-4]}
    name = result_name("linear", "step_1", "/data/cars", changed=changed)
    assert name == "linear_step_1_data-cars_epochs-30_learning_rate-0.05_rates-0.02-0.0001"
    assert described(changed) == "epochs 30, learning rate 0.05, rates 0.02 0.0001"


def test_a_long_name_is_cut_and_still_of_its_own() -> None:
    a, b = (result_name("knn", "/folder" * 40 + end, changed={"k": 5}) for end in ("a", "b"))
    assert a != b and len(a) == len(b) == LONGEST and a.startswith("knn_folder-folder")
