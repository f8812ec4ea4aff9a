"""Preprocessing is fitted on training rows only, from sums of each client's rows."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fedlab.core import Experiment, Local
from fedlab.data import dirichlet, federate, tabular
from fedlab.data.moments import moments, pooled
from fedlab.data.tabular import CHOICES
from fedlab.engine import run
from fedlab.models import least_squares, logistic_regression
from fedlab.server import fedavg, uniform, weighted_mean

N = 300
DRAW = np.random.default_rng(0)
SITE = np.array(["ulm", "bonn", "kiel"])[np.arange(N) % 3]
TABLE = pd.DataFrame(
    {
        "age": DRAW.normal(50, 10, N).round() + 5 * (SITE == "ulm"),
        "pressure": DRAW.normal(130, 20, N).round(),
        "sex": DRAW.choice(["f", "m"], N),
        "pain": DRAW.integers(1, 5, N),
        "smokes": DRAW.random(N) < 0.3,
        "site": SITE,
        "ill": DRAW.choice(["no", "yes"], N),
    }
)
NUMBERS = ["age", "pressure", "smokes"]


def holed(column, share=0.3, sites=("kiel",), mark=None):
    """The table without some of a column's values."""
    gone = np.isin(SITE, sites) & (np.random.default_rng(1).random(N) < share)
    values = TABLE[column].astype(object)
    values[gone] = mark
    return TABLE.assign(**{column: values})


def sites(data):
    return [data.x[part] for part in data.parts]


def test_moments_of_clients_together_are_those_of_all_rows():
    x = DRAW.normal(1e9, 3, (500, 4)) * [
        1,
        1e-6,
        1e6,
        1,
    ]  # far from 0, where a difference of squares would be lost
    x[DRAW.random(x.shape) < 0.2] = np.nan
    client = DRAW.integers(-1, 7, 500)
    each = moments(x, client, 9)  # two of them hold nothing
    together = pooled(each)
    held = x[client >= 0]
    np.testing.assert_array_equal(together.count, (~np.isnan(held)).sum(0))
    np.testing.assert_allclose(together.mean, np.nanmean(held, 0), rtol=1e-14)
    np.testing.assert_allclose(together.deviation, np.nanstd(held, 0), rtol=1e-6)
    np.testing.assert_allclose(each.mean[3], np.nanmean(x[client == 3], 0), rtol=1e-14)


def test_without_missing_values_it_is_scikit_learns():
    data = tabular(TABLE, label="ill", owner="site", categorical=["pain"])
    for part, test_part, site in zip(
        data.parts, data.test_parts, ["bonn", "kiel", "ulm"], strict=True
    ):
        assert len(part) + len(test_part) == list(SITE).count(site)
    rows = [pd.DataFrame(x.numpy(), columns=data.encoding.columns) for x in (data.x, data.test[0])]
    assert data.encoding.columns[2:8] == ("sex=f", "sex=m", "pain=1", "pain=2", "pain=3", "pain=4")
    apart = tabular(TABLE, label="ill", owner="site", categorical=["pain"], scale="none")
    train, test = (
        pd.DataFrame(x.numpy(), columns=apart.encoding.columns) for x in (apart.x, apart.test[0])
    )
    scaler = StandardScaler().fit(train[NUMBERS])
    for ours, plain in zip(rows, (train, test), strict=True):
        np.testing.assert_allclose(ours[NUMBERS], scaler.transform(plain[NUMBERS]), atol=1e-5)
        np.testing.assert_array_equal(ours.drop(columns=NUMBERS), plain.drop(columns=NUMBERS))
    whole = apart.encoding.transform(TABLE).numpy()
    encoder = OneHotEncoder(sparse_output=False).fit(TABLE[["sex", "pain"]])
    np.testing.assert_array_equal(whole[:, 2:8], encoder.transform(TABLE[["sex", "pain"]]))


def test_missing_values_are_filled_as_scikit_learn_does():
    table = holed("age").assign(sex=holed("sex")["sex"])
    train, test = table.iloc[:200], table.iloc[200:]
    data = tabular(train, label="ill", clients=5, test=test, scale="none", categories="codes")
    age = SimpleImputer().fit(train[["age"]].astype(float))
    sex = SimpleImputer(strategy="most_frequent", missing_values=None).fit(train[["sex"]])
    for x, rows in ((data.x, train), (data.test[0], test)):
        np.testing.assert_allclose(
            x[:, 0], age.transform(rows[["age"]].astype(float))[:, 0], rtol=1e-6
        )
        np.testing.assert_array_equal(x[:, 2] == 1, sex.transform(rows[["sex"]])[:, 0] == "m")


@pytest.mark.parametrize("scale", CHOICES["scale"])
@pytest.mark.parametrize("missing", ["federated", "local"])
def test_test_rows_have_no_influence(scale, missing):
    table = holed("age")
    train, test = table.iloc[:200], table.iloc[200:]
    wild = test.assign(age=1e6, pressure=-5.0, sex="x", smokes=True, pain=77)
    choices = {
        "label": "ill",
        "owner": "site",
        "scale": scale,
        "missing": missing,
        "categorical": ["pain"],
        "flags": True,
    }
    first, second = (tabular(train, test=rows, **choices) for rows in (test, wild))
    assert torch.equal(first.x, second.x)
    assert first.encoding.columns == second.encoding.columns
    alone = tabular(train, test=test.iloc[:1], **choices)
    assert torch.equal(alone.test[0][0], first.test[0][0]), "nor on each other"


def test_own_statistics_are_those_of_the_clients_training_rows_only():
    data = tabular(TABLE, label="ill", owner="site", scale="local")
    for x in sites(data):
        torch.testing.assert_close(x[:, :2].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
        torch.testing.assert_close(x[:, :2].std(0, correction=0), torch.ones(2), atol=1e-5, rtol=0)
    others = TABLE.assign(age=TABLE["age"].where(SITE == "kiel", 1.0))
    again = tabular(others, label="ill", owner="site", scale="local")
    kiel = again.encoding.clients["kiel"]
    assert torch.equal(again.x[again.parts[kiel]], data.x[data.parts[kiel]])
    assert torch.equal(again.test[0][again.test_parts[kiel]], data.test[0][data.test_parts[kiel]])


def test_test_rows_have_the_statistics_of_their_own_client():
    plain = tabular(TABLE, label="ill", owner="site", scale="none")
    data = tabular(TABLE, label="ill", owner="site", scale="local")
    for part, test_part in zip(data.parts, data.test_parts, strict=True):
        rows = plain.x[part, :2]
        expected = (plain.test[0][test_part, :2] - rows.mean(0)) / rows.std(0, correction=0)
        torch.testing.assert_close(data.test[0][test_part, :2], expected, atol=1e-4, rtol=0)


def test_federated_statistics_are_the_pooled_ones_however_rows_are_divided():
    first = tabular(TABLE, label="ill", clients=4)
    second = tabular(TABLE, label="ill", clients=30, split=dirichlet(0.3), seed=7)
    torch.testing.assert_close(first.x, second.x, atol=1e-5, rtol=0)
    torch.testing.assert_close(first.x[:, :2].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    assert first.test_parts is None


def test_a_client_with_few_values_takes_the_federated_ones():
    table = holed("age", share=1.0)  # Kiel knows nobody's age
    plain = tabular(table, label="ill", owner="site", scale="none", missing="local")
    kiel = plain.encoding.clients["kiel"]
    everyone = plain.encoding.federated.mean[0]
    np.testing.assert_allclose(plain.x[plain.parts[kiel], 0], everyone, rtol=1e-6)
    bonn = tabular(
        holed("age", 0.5, ("bonn",)),
        label="ill",
        owner="site",
        scale="none",
        missing="local",
        flags=True,
    )
    part = bonn.parts[bonn.encoding.clients["bonn"]]
    gone = bonn.x[part, -1] == 1
    assert 20 < gone.sum() < 60
    torch.testing.assert_close(
        bonn.x[part][gone, 0], bonn.x[part][~gone, 0].mean().expand(int(gone.sum()))
    )
    strict = tabular(
        holed("age", 0.5, ("bonn",)),
        label="ill",
        owner="site",
        missing="local",
        min_values=1000,
        scale="none",
    )
    assert strict.x[part][gone, 0].unique().numpy() == pytest.approx(
        strict.encoding.federated.mean[0], rel=1e-6
    )


def test_flags_say_where_training_rows_have_no_value():
    data = tabular(holed("sex", 0.5, mark="?"), label="ill", owner="site", flags=True)
    assert data.encoding.flagged == ("sex",)
    assert data.encoding.columns[-1] == "sex missing"
    flag = torch.cat([data.x[:, -1], data.test[0][:, -1]])
    assert flag.sum().item() == (holed("sex", 0.5, mark="?")["sex"] == "?").sum()
    assert tabular(TABLE, label="ill", flags=True).encoding.flagged == ()


@pytest.mark.parametrize("mark", ["?", "", " ", "NA", None, np.nan, pd.NA])
def test_marks_of_missing_values_are_understood(mark):
    data = tabular(holed("age", mark=mark), label="ill", owner="site", flags=True)
    assert data.encoding.columns == (
        "age",
        "pressure",
        "sex=f",
        "sex=m",
        "pain",
        "smokes",
        "age missing",
    )
    assert data.x.isfinite().all()
    same = tabular(holed("age"), label="ill", owner="site", flags=True)
    assert torch.equal(data.x, same.x)


def test_sites_may_write_one_number_in_two_ways():
    """Hospitals of the heart disease set write one number in two ways."""
    table = TABLE.assign(
        pain=[f"{pain}.0" if k % 2 else str(pain) for k, pain in enumerate(TABLE["pain"])]
    )
    data = tabular(table, label="ill", owner="site", categorical=["pain"])
    assert torch.equal(data.x, tabular(TABLE, label="ill", owner="site", categorical=["pain"]).x)


@pytest.mark.parametrize(
    ("categories", "columns"),
    [("onehot", ["sex=f", "sex=m"]), ("dummies", ["sex=m"]), ("codes", ["sex"])],
)
def test_categories(categories, columns):
    data = tabular(TABLE[["sex", "ill"]], label="ill", clients=3, categories=categories)
    assert list(data.encoding.columns) == columns
    assert data.x[:, -1].unique().tolist() == [0, 1]


def test_the_order_of_categories_stays_and_unused_ones_go():
    ranked = TABLE.assign(
        pain=pd.Categorical.from_codes(TABLE["pain"], ["none", "z", "b", "c", "a"])
    )
    data = tabular(ranked, label="ill", clients=3)
    assert data.encoding.levels["pain"] == ("z", "b", "c", "a")


def test_a_level_that_only_test_rows_have_is_missing():
    test = TABLE.iloc[:4].assign(sex=["x", "f", "m", "x"])
    data = tabular(TABLE.iloc[4:], label="ill", test=test, clients=3, categories="codes")
    mode = TABLE["sex"].iloc[4:].mode()[0]
    assert data.test[0][:, 2].tolist() == [mode == "m", 0, 1, mode == "m"]
    with pytest.raises(
        ValueError,
        match=(
            r"column 'sex' must have known values, and it has 'x' at row 0 \(2 of 4 are "
            r"missing, or no level of a training row\)\. Try missing='federated'"
        ),
    ):
        tabular(TABLE.iloc[4:], label="ill", test=test, clients=3, missing="refuse")


def test_rows_of_a_new_client_are_transformed():
    old, new = TABLE[SITE != "kiel"], TABLE[SITE == "kiel"]
    data = tabular(old, label="ill", owner="site", scale="local", missing="local")
    with pytest.raises(
        ValueError,
        match=(
            r"owner='kiel' must be one of the 2 owners whose statistics are known\. Try "
            r"encoding\.with_client\('kiel', rows\), or owner=None for federated ones"
        ),
    ):
        data.encoding.transform(new, owner="site")
    wider = data.encoding.with_client("kiel", new)
    x = wider.transform(new, owner="site")
    torch.testing.assert_close(x[:, :2].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    assert torch.equal(
        wider.transform(old, owner="site"), data.encoding.transform(old, owner="site")
    )
    np.testing.assert_allclose(
        wider.federated.mean[1], pd.concat([data_rows(data, old), new])["pressure"].mean()
    )
    assert data.encoding.transform(new).isfinite().all(), "by federated statistics"
    with pytest.raises(
        ValueError,
        match=r"owner='kiel' must be new \(its statistics are known\)\. Try another name",
    ):
        wider.with_client("kiel", new)


def data_rows(data, table):
    """The training rows of a table that was divided."""
    plain = tabular(table, label="ill", owner="site", scale="none")
    return pd.DataFrame({"pressure": plain.x[:, 1].numpy()})


def test_training_rows_are_transformed_to_what_they_were():
    data = tabular(
        TABLE.iloc[:200],
        label="ill",
        owner="site",
        test=TABLE.iloc[200:],
        scale="local",
        missing="local",
    )
    assert torch.equal(data.encoding.transform(TABLE.iloc[:200], owner="site"), data.x)
    assert torch.equal(data.encoding.transform(TABLE.iloc[200:], owner=SITE[200:]), data.test[0])
    assert replace(data, name="other").encoding is data.double().encoding is data.encoding


def test_each_client_has_its_share_of_test_rows_of_each_class():
    data = tabular(TABLE, label="ill", owner="site", test=0.25)
    for part, test_part in zip(data.parts, data.test_parts, strict=True):
        assert len(test_part) == pytest.approx(25, abs=1)
        share = [y.float().mean().item() for y in (data.test[1][test_part], data.y[part])]
        assert share[0] == pytest.approx(share[1], abs=0.06)


def test_labels_may_be_targets():
    data = tabular(TABLE, label="age", owner="site", classes=())
    assert data.classes == ()
    assert data.y.dtype == torch.float32
    study = Experiment(
        data, least_squares(data), Local(0.01, 8), fedavg(), weighted_mean, uniform(2), rounds=1
    )
    assert run(study).w[0].isfinite().all()


@pytest.mark.parametrize(
    "choice", [(name, value) for name, values in CHOICES.items() for value in values]
)
def test_every_choice_trains(choice):
    data = tabular(TABLE, label="ill", owner="site", **dict([choice]))
    study = Experiment(
        data,
        logistic_regression(data),
        Local(0.01, 8),
        fedavg(),
        weighted_mean,
        uniform(2),
        rounds=1,
    )
    assert run(study).w[0].isfinite().all()


def test_columns_of_two_levels_are_named_by_both():
    data = tabular(
        pd.concat({"a": TABLE}, axis=1),
        label=("a", "ill"),
        owner=("a", "site"),
        categorical=[("a", "pain")],
    )
    assert data.num_clients == 3
    assert torch.equal(data.x, tabular(TABLE, label="ill", owner="site", categorical="pain").x)


def test_the_table_stays_as_it_is():
    table, copy = holed("age", mark="?"), holed("age", mark="?")
    tabular(table, label="ill", owner="site", flags=True)
    pd.testing.assert_frame_equal(table, copy)


def test_the_remedy_of_federate_works():
    with pytest.raises(ValueError, match=r"Try tabular\(frame, label=\.\.\.\)"):
        federate(TABLE.drop(columns="ill"), TABLE["ill"])
    assert tabular(TABLE, label="ill").num_clients == 10


WRONG = {
    "no label": (
        lambda: tabular(TABLE, label="sick"),
        (
            r"label='sick' must be a column of the table\. Try one of \['age', "
            r"'pressure', 'sex', 'pain', 'smokes', 'site', 'ill'\]"
        ),
    ),
    "no owner": (
        lambda: tabular(TABLE, label="ill", owner="town"),
        (
            r"owner='town' must be a column of the table \(there are \['age', 'pressure', "
            r"'sex', 'pain', 'smokes', 'site', 'ill'\]\)\. Try owner=None"
        ),
    ),
    "an owner in the index": (
        lambda: tabular(TABLE.set_index("site"), label="ill", owner="site"),
        (
            r"owner='site' must be a column of the table \(there are \['age', 'pressure', "
            r"'sex', 'pain', 'smokes', 'ill'\]\)\. Try frame\.reset_index\(\)"
        ),
    ),
    "a column of lists": (
        lambda: tabular(TABLE.assign(age=[[1]] * N), label="ill"),
        (
            r"column 'age' must hold finite numbers, and it has \[1\] at row 0\. Try "
            r"frame\.drop\(columns=\['age'\]\)"
        ),
    ),
    "both": (
        lambda: tabular(TABLE, label="ill", owner="site", split=dirichlet(1)),
        (
            r"split must be None beside owner \(the owner of a row is its client\)\. Try "
            r"split=None, or owner=None"
        ),
    ),
    "scale": (
        lambda: tabular(TABLE, label="ill", scale="minmax"),
        (
            r"scale='minmax' must be one of 'federated', 'local', 'none'\. Try "
            r"scale='federated'"
        ),
    ),
    "missing": (
        lambda: tabular(TABLE, label="ill", missing=None),
        (
            r"missing=None must be one of 'federated', 'local', 'refuse'\. Try "
            r"missing='federated'"
        ),
    ),
    "categories": (
        lambda: tabular(TABLE, label="ill", categories="woe"),
        (
            r"categories='woe' must be one of 'onehot', 'dummies', 'codes'\. Try "
            r"categories='onehot'"
        ),
    ),
    "categorical": (
        lambda: tabular(TABLE, label="ill", categorical=["cp"]),
        (
            r"categorical='cp' must be a column of features\. Try one of \['age', "
            r"'pressure', 'sex', 'pain', 'smokes', 'site'\]"
        ),
    ),
    "min_values": (
        lambda: tabular(TABLE, label="ill", min_values=0),
        "min_values=0 must be a whole number of at least 1",
    ),
    "missing values": (
        lambda: tabular(holed("age"), label="ill", missing="refuse"),
        (
            r"column 'age' must have known values, and it has None at row 55 \(22 of 240 "
            r"are missing, or no level of a training row\)\. Try missing='federated'"
        ),
    ),
    "a missing label": (
        lambda: tabular(holed("ill"), label="ill"),
        (
            r"frame\['ill'\]\[2\]=None must be a label \(34 of 300 examples have none\)\. "
            r"Try leaving these rows out"
        ),
    ),
    "a missing owner": (
        lambda: tabular(holed("site"), label="ill", owner="site"),
        (
            r"owner\[2\]=None must be a name \(34 of 300 examples have none\)\. Try "
            r"leaving these rows out, or a name for them such as 'unknown'"
        ),
    ),
    "an empty column": (
        lambda: tabular(TABLE.assign(ca=None), label="ill"),
        (
            r"column 'ca' must have a value in a training row\. Try "
            r"frame\.drop\(columns=\['ca'\]\)"
        ),
    ),
    "an empty category": (
        lambda: tabular(TABLE.assign(ca="?"), label="ill", categorical=["ca"]),
        (
            r"column 'ca' must have a value in a training row\. Try "
            r"frame\.drop\(columns=\['ca'\]\)"
        ),
    ),
    "infinity": (
        lambda: tabular(TABLE.assign(age=np.inf), label="ill"),
        (
            r"column 'age' must hold finite numbers, and it has inf at row 0\. Try "
            r"frame\.replace\(inf, None\), or categorical=\['age'\]"
        ),
    ),
    "a text among test rows": (
        lambda: tabular(TABLE, label="ill", test=TABLE.assign(age="old")),
        (
            r"column 'age' must hold finite numbers, and it has 'old' at row 0\. Try "
            r"frame\.replace\('old', None\), or categorical=\['age'\]"
        ),
    ),
    "times": (
        lambda: tabular(TABLE.assign(when=pd.Timestamp("2020")), label="ill"),
        (
            r"column 'when' must hold numbers or categories, and it holds times\. Try "
            r"\(frame\['when'\] - frame\['when'\]\.min\(\)\) / pd\.Timedelta\('1D'\)"
        ),
    ),
    "a name twice": (
        lambda: tabular(pd.concat([TABLE, TABLE], axis=1), label="ill"),
        (
            r"the columns of the table must differ, and several are named 'age'\. Try "
            r"frame\.columns = \[\.\.\.\]"
        ),
    ),
    "nothing but labels": (
        lambda: tabular(TABLE[["ill"]], label="ill"),
        (
            r"the table must have a column beside label and owner \(there is no "
            r"feature\)\. Try a table with more columns"
        ),
    ),
    "no rows": (
        lambda: tabular(TABLE.iloc[:0], label="ill"),
        r"the table must have a row \(there is nothing to train on\)\. Try",
    ),
    "an array": (
        lambda: tabular(TABLE.to_numpy(), label="ill"),
        r"the table must be a DataFrame, and it is a ndarray\. Try pd\.DataFrame\(rows\)",
    ),
    "labels that may be numbers": (
        lambda: tabular(TABLE.assign(ill=range(5, N + 5)), label="ill"),
        (
            r"Try classes=\(\) .* or "
            r"frame\['ill'\] = np\.unique\(frame\['ill'\], return_inverse=True\)\[1\] if"
        ),
    ),
    "thousands": (
        lambda: tabular(TABLE.assign(pay=[f"1,{k % 900 + 100}.50" for k in range(N)]), label="ill"),
        (
            r"column 'pay' must hold numbers, and it holds numbers as texts, such as "
            r"'1,100\.50'\. Try frame\['pay'\] = "
            r"pd\.to_numeric\(frame\['pay'\]\.str\.replace\(r'\[%\\s,\]', '', "
            r"regex=True\)\), or categorical=\['pay'\] if it is a category"
        ),
    ),
    "decimal commas": (
        lambda: tabular(TABLE.assign(pay=[f"0,{k % 90 + 10}" for k in range(N)]), label="ill"),
        (
            r"column 'pay' must hold numbers, and it holds numbers as texts, such as "
            r"'0,10'\. Try frame\['pay'\] = "
            r"pd\.to_numeric\(frame\['pay'\]\.str\.replace\(r'\[%\\s\]', '', "
            r"regex=True\)\.str\.replace\(',',"
        ),
    ),
    "shares": (
        lambda: tabular(TABLE.assign(pay="5 %"), label="ill"),
        (
            r"column 'pay' must hold numbers, and it holds numbers as texts, such as '5 "
            r"%'\. Try frame\['pay'\] = "
            r"pd\.to_numeric\(frame\['pay'\]\.str\.replace\(r'\[%\\s,\]', '', "
            r"regex=True\)\), or categorical=\['pay'\] if it is a category"
        ),
    ),
    "names of rows": (
        lambda: tabular(TABLE.assign(id=[f"p{k}" for k in range(N)]), label="ill"),
        (
            r"column 'id' must hold repeated categories, and it has 240 different texts "
            r"in 240 rows, such as 'p0', as names of rows have\. Try "
            r"frame\.drop\(columns=\['id'\]\), or categorical=\['id'\] if it is a category"
        ),
    ),
    "fewer columns": (
        lambda: tabular(TABLE, label="ill", test=TABLE[["age", "ill"]]),
        (
            r"the table must have the column 'pressure' \(the encoding reads it\)\. Try a table "
            r"with the columns \['age', 'pressure', 'sex', 'pain', 'smokes', 'site'\]"
        ),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_told_in_a_line(name):
    act, message = WRONG[name]
    with pytest.raises(ValueError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["1,234.50", "2,000", "7"], [1234.5, 2000, 7]),
        (["0,13", "1,5", "2"], [0.13, 1.5, 2]),
        (["1.234,50", "1,234", "0,5"], [1234.5, 1.234, 0.5]),
        (["5 %", "10%", "1"], [5, 10, 1]),
    ],
    ids=["thousands", "decimal commas", "both", "shares"],
)
def test_the_remedy_for_numbers_as_texts_works(cells, numbers):
    frame = TABLE.iloc[:3].assign(pay=cells)
    with pytest.raises(
        ValueError, match=r"column 'pay' must hold numbers, and it holds numbers as texts"
    ) as caught:
        tabular(frame, label="ill", test=frame, clients=2)
    remedy = str(caught.value).split("Try frame['pay'] = ")[1].split(", or categorical=")[0]
    assert eval(remedy, {"frame": frame, "pd": pd}).tolist() == numbers


def test_texts_that_are_named_as_categories_may_be_many():
    frame = TABLE.assign(pay=[f"{k},5" for k in range(N)], id=[f"p{k}" for k in range(N)])
    assert {"pay", "id"} <= set(
        tabular(frame, label="ill", categorical=["pay", "id"]).encoding.levels
    )


@pytest.mark.parametrize(
    ("act", "message", "remedy"),
    [
        (
            lambda: tabular(TABLE.assign(k=[b"a", b"b"] * (len(TABLE) // 2)), label="ill"),
            (
                r"column 'k' must hold finite numbers, and it has b'a' at row 0\. Try "
                r"frame\['k'\] = frame\['k'\]\.str\.decode\('utf-8'\)"
            ),
            lambda: tabular(
                TABLE.assign(k=pd.Series([b"a", b"b"] * (len(TABLE) // 2)).str.decode("utf-8")),
                label="ill",
            ),
        ),
        (
            lambda: tabular(TABLE.assign(k=np.arange(len(TABLE)) + 1j), label="ill"),
            (
                r"column 'k' must hold real numbers, and it holds complex numbers\. Try "
                r"frame\['k'\] = np\.abs\(frame\['k'\]\), or np\.real and np\.imag of it in "
                r"two columns"
            ),
            lambda: tabular(TABLE.assign(k=np.abs(np.arange(len(TABLE)) + 1j)), label="ill"),
        ),
        (
            lambda: tabular(
                TABLE.assign(k=2**53 + np.arange(len(TABLE)) % 3), label="ill", categorical="k"
            ),
            (
                r"column 'k' must have categories up to 9,007,199,254,740,992 \(beyond it, "
                r"float64 takes different ones for equal\)\. Try frame\['k'\] = 'n' \+ "
                r"frame\['k'\]\.astype\(str\)"
            ),
            lambda: tabular(
                TABLE.assign(k="n" + pd.Series(2**53 + np.arange(len(TABLE)) % 3).astype(str)),
                label="ill",
            ),
        ),
        (
            lambda: tabular(TABLE, label=["age", "pressure"]),
            (
                r"label=\['age', 'pressure'\] must be the name of one column\. "
                r"Try label='age', or federate\(frame\.drop\(col"
            ),
            lambda: federate(TABLE[["pain"]], TABLE[["age", "pressure"]]),
        ),
        (
            lambda: tabular(TABLE, label="ill", owner="site", test=TABLE.assign(site="Z")),
            (
                r"owners of test examples must also have training examples \(the test set has "
                r"'Z', and the training set has 'bonn'\)\. Try names of one type and spelling "
                r"in both, or a test set without owners, such as test=\(x, y\)"
            ),
            lambda: tabular(TABLE, label="ill", owner="site", test=TABLE.drop(columns="site")),
        ),
    ],
    ids=[
        "bytes",
        "complex numbers",
        "large categories",
        "two labels",
        "test owners who are all unknown",
    ],
)
def test_what_does_not_fit_says_what_does(act, message, remedy):
    with pytest.raises(ValueError, match=message):
        act()
    remedy()


@pytest.mark.parametrize("scale", ["local", "federated"])
def test_an_owner_of_test_rows_only_is_a_client(scale, caplog):
    old, new = TABLE[SITE != "kiel"], TABLE.iloc[:100]
    data = tabular(old, label="ill", owner="site", test=new, scale=scale, missing=scale)
    names = sorted(set(SITE))
    assert [len(part) for part in data.parts] == [(old["site"] == name).sum() for name in names]
    assert [len(part) for part in data.test_parts] == [
        (new["site"] == name).sum() for name in names
    ]
    assert "('kiel') are clients that never train" in caplog.text
    kiel = data.test_parts[names.index("kiel")]
    assert torch.equal(data.test[0][kiel], data.encoding.transform(new.iloc[kiel])), (
        "by federated statistics"
    )
