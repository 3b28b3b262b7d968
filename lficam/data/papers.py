"""The papers' numbers (tables/papers/*.csv), and tables with them beside ours."""

import re

import pandas as pd

from .. import files


def _paper(name):
    return pd.read_csv(files.table(f"papers/{name}.csv"))


def published_accuracy() -> pd.DataFrame:
    """The papers' top-1 accuracies in percent: columns dataset, backbone, method, published (NaN: unread), source.

    Of ABN, "published" is the best epoch on the test set; a column "last epoch" has what the authors' logs end with.
    """
    error, lfi, rows = _paper("abn_top1_error"), _paper("lfi_top1_accuracy"), []
    for column, method in (("baseline_error_pct", "plain"), ("abn_error_pct", "abn")):
        rows.append((error, method, (100 - error[column]).round(2), "ABN, CVPR 2019"))
    for column, method in (("plain_pct", "plain"), ("abn_pct", "abn"), ("lfi_cam_pct", "lfi-cam")):
        rows.append((lfi, method, lfi[column].astype(float), "LFI-CAM, ICCV 2021"))
    parts = [
        table[["dataset", "backbone"]].assign(method=method, published=published, source=source)
        for table, method, published, source in rows
    ]
    last = _paper("abn_best_and_last")
    last = last[["dataset", "backbone"]].assign(
        method="abn", source="ABN, CVPR 2019", **{"last epoch": (100 - last.abn_last_error_pct).round(2)}
    )
    table = pd.concat(parts, ignore_index=True).merge(last, how="left")
    return table[["dataset", "backbone", "method", "published", "last epoch", "source"]]


def published_trainings() -> pd.DataFrame:
    """What ABN's authors logged after every epoch: tables/papers/abn_training_logs.csv.

    Columns dataset, backbone, epoch, learning_rate, train_loss, test_loss, train_top1_error_pct, test_top1_error_pct.
    """
    return _paper("abn_training_logs")


def published_iou() -> tuple[pd.DataFrame, ...]:
    """The IoU between models that LFI-CAM's stability figure shows, as two tables: per model pair, and average.

    Columns method, dataset, pair ("first" to "fifth"; not in the average), published, source.
    """
    source = "LFI-CAM, ICCV 2021, stability figure"
    per_model = _paper("lfi_iou_per_model").melt(["method", "dataset"], var_name="pair", value_name="published")
    mean = _paper("lfi_iou_mean").rename(columns={"iou": "published"})
    return tuple(table.assign(method=table.method.str.lower(), source=source) for table in (per_model, mean))


def published_faithfulness() -> pd.DataFrame:
    """AD, IC and #FW of L-CAM, TAME and T-TAME on ImageNet, as far as they are known: tables/papers/ad_ic.csv.

    Columns dataset, classifier, explainer, measure ("AD 100" ... "IC 15"), published, source.
    """
    table = _paper("ad_ic").melt(
        ["source", "dataset", "classifier", "explainer"], var_name="measure", value_name="published"
    )
    return table.assign(published=table.published.astype(float))


def published_parameters() -> pd.DataFrame:
    """Parameters of the attention mechanisms for 1,000 classes, as the authors' code has them.

    Columns method, backbone (the papers' names), branch_convs, batch_norms, fusion, total.
    """
    return _paper("attention_parameters")


def published_passes() -> pd.DataFrame:
    """Forward passes an explanation (#FW of L-CAM): columns backbone, explainer, published."""
    table = _paper("forward_passes").rename(columns={"method": "explainer", "forward_passes": "published"})
    return table.assign(explainer=table.explainer.str.lower())


def beside_published(reproduced: pd.DataFrame, published: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Reproduced rows with the published value of the same keys beside them, then the published rows that were not run.

    Missing values are "—" in the table, never a guess.
    """
    known = published.dropna(subset=["published"])
    table = reproduced.merge(known, on=keys, how="left")
    others = known.merge(reproduced[keys], on=keys, how="left", indicator=True)
    others = others[others.pop("_merge") == "left_only"]
    whole = dict.fromkeys(reproduced.select_dtypes("integer"), "Int64")  # which knows a missing value
    rows = [row for part in (table, others) for row in part.to_dict("records")]
    return pd.DataFrame(rows, columns=table.columns).astype(whole)


def dataset_title(name: str) -> str:
    """The papers' name of a data set, for tables."""
    titles = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "stl10": "STL-10", "catdog": "Cat&Dog"}
    return (titles | {"imagenet": "ImageNet"}).get(name, name)


def backbone_title(name: str) -> str:
    """The papers' name of a backbone: "resnet-110", "resnet110" and "lfi-resnet110" are "ResNet-110".

    The authors' logs say which DenseNet, Wide ResNet and ResNeXt ABN's numbers belong to.
    """
    named = {"densenet-bc-100-12": "DenseNet-BC-100-12", "wrn-28-10": "WRN-28-10"}
    named |= {"resnext-29-8x64": "ResNeXt-29-8x64"}
    match = re.fullmatch(r"(?:lfi-)?resnet-?(\d+)", name)
    return f"ResNet-{match[1]}" if match else named.get(name, name)
