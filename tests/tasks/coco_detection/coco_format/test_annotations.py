"""Own data with a fault: `check` names file and annotation, and a training refuses it; what counts as what is said."""

import json
import logging
import time

import pytest

from tasks import findings
from tasks.coco_detection.check import main
from tasks.coco_detection.coco_format.annotations import check_lists, examine
from tasks.coco_detection.coco_format.layout import Layout
from tasks.coco_detection.data import open_dataset
from tasks.spec import DataError
from tests.tasks.coco_detection.conftest import annotation

NAN, INFINITY = float("nan"), float("inf")


def first(**values):
    return lambda content: content["annotations"][0].update(values)


def each(change):
    return lambda content: [change(entry) for entry in content["annotations"]]


def corners(entry):
    x, y, width, height = entry["bbox"]
    entry["bbox"] = [x, y, x + width, y + height]


def fractions(entry):
    entry["bbox"] = [value / 100 for value in entry["bbox"]]


def boxes_alone_as_corners(entry):
    corners(entry)
    del entry["segmentation"]


def rle(counts, size=(64, 96)):
    return first(segmentation={"size": list(size), "counts": counts})


def one_polygon(polygon, of):
    """A change after which the first objects alone have polygons, this one, and all others run lengths."""

    def change(content):
        for number, entry in enumerate(content["annotations"]):
            runs = {"size": [64, 96], "counts": [100, 7, 64 * 96 - 107]}
            entry["segmentation"] = [polygon] if number < of else runs

    return change


def names(name):
    return lambda content: content["images"][0].update(file_name=name)


REFUSED = {
    "no segmentation": (each(lambda a: a.pop("segmentation")), r"annotations\[0\] \(id 1, of 000.jpg\) has no segm"),
    "only some have none": (lambda c: c["annotations"][3].pop("segmentation"), r"annotations\[3\] .* no segmentation;"),
    "masks elsewhere": (
        each(lambda a: a.update(segmentation=[[80, 56, 95, 56, 95, 63]])),
        r"annotations\[0\] has bbox \[4, 6, 24, 20\], its polygons are elsewhere \(12 of 12 boxes\); give each",
    ),
    "empty segmentation": (first(segmentation=[]), r"annotations\[0\] .* an empty segmentation, \[\]; add masks"),
    "empty object": (first(segmentation={}), "an empty segmentation"),
    "segmentation of text": (first(segmentation="none"), "has segmentation 'none'; give polygons"),
    "list of text": (first(segmentation=["a"]), r"has segmentation \['a'\]; give polygons"),
    "polygon of text": (first(segmentation=[["1", "2"] * 3]), "a polygon that is no list of numbers"),
    "polygon of 4": (first(segmentation=[[4, 6, 28, 26]]), "no polygon of three points"),
    "empty polygon": (first(segmentation=[[]]), "no polygon of three points"),
    "odd polygon": (first(segmentation=[[0, 0, 5, 0, 5, 5, 1]]), "a polygon of 7 numbers, not finite pairs x, y"),
    "polygon with NaN": (first(segmentation=[[0, 0, NAN, 0, 5, 5]]), "not finite pairs"),
    "polygon with infinity": (first(segmentation=[[0, 0, INFINITY, 0, -INFINITY, 5]]), "not finite pairs"),
    "polygon with a huge integer": (first(segmentation=[[0, 0, 10**400, 0, 5.5, 5]]), "not finite pairs"),
    "polygon far outside": (first(segmentation=[[0, 0, 1e9, 0, 1e9, 1e9]]), "a polygon outside its image of 96 x 64"),
    "polygon left of the image": (first(segmentation=[[-9, 6, 28, 6, 28, 26]]), "outside its image .*: x -9 to 28"),
    "polygon above the image": (first(segmentation=[[4, -9, 28, 6, 28, 26]]), "outside its image .* y -9 to 26"),
    "polygon right of the image": (first(segmentation=[[4, 6, 105, 6, 28, 26]]), "outside its image .*: x 4 to 105"),
    "polygon below the image": (first(segmentation=[[4, 6, 28, 6, 28, 73]]), "outside its image .* y 6 to 73"),
    "flat polygon": (first(segmentation=[0, 0, 5, 0, 5, 5]), r"one flat list of numbers; .*\[\[x1, y1, x2, y2"),
    "polygon that goes on and on": (
        first(segmentation=[[0, 0, 95, 63] * 6000]),
        "an outline of 1,140,000 pixels, more than the 1,048,576 that are read; trace",
    ),
    "RLE of another size": (rle([64 * 96], (96, 64)), r"run lengths of size \[96, 64\], in an image of \[64, 96\]"),
    "huge RLE": (rle("5", (2**31, 2**31)), "run lengths of size"),
    "RLE of a size that is no whole number": (rle([64 * 96], (64.0, 96)), "run lengths of size"),
    "RLE of more numbers than pixels": (rle("0" * 12_400), "malformed run lengths"),
    "malformed RLE": (rle("~~~~~~~~"), "malformed run lengths"),
    "RLE cut off": (rle("P"), "malformed run lengths"),
    "endless RLE": (rle("o" * 50), "malformed run lengths"),
    "RLE of a number of 65 bits": (rle("o" * 12 + "1"), "malformed run lengths"),
    "RLE of no text": (rle("é1"), "malformed run lengths"),
    "RLE that is too short": (rle("55"), "do not add up to 96 x 64"),
    "RLE of more runs than pixels": (rle([6144, *[0] * 6146]), "has 6,147 run lengths, more than pixels"),
    "RLE with a negative run": (rle([7000, -1000, 144]), "negative or do not add up"),
    "RLE of fractions": (rle([6143.5, 0.5]), r"has run lengths \[6143.5, 0.5\]"),
    "RLE without counts": (rle(None), "has run lengths None"),
    "RLE without a pixel": (rle([64 * 96]), "a mask without a pixel"),
    "box with NaN": (first(bbox=[4, 6, NAN, 20]), r"annotations\[0\] has bbox \[4, 6, nan, 20\], not \[x, y, width"),
    "box of text": (first(bbox=["4", "6", "24", "20"]), "give four finite numbers"),
    "no box": (first(bbox=None), "has bbox None"),
    "box of corners": (each(corners), r"annotations\[0\] has bbox .* its polygons say is \[x1, y1, x2, y2\]"),
    "box far outside": (first(bbox=[200, 6, 24, 20]), "reaches outside its image of 96 x 64"),
    "fractions": (each(fractions), "the boxes are fractions of their images"),
    "iscrowd of text": (first(iscrowd="no"), "has iscrowd = 'no'; write 1 for a crowd"),
    "iscrowd null": (first(iscrowd=None), "has iscrowd = None"),
    "iscrowd of 2": (first(iscrowd=2), "has iscrowd = 2; write 1 for a crowd"),
    "ignore of text": (first(ignore="0"), "has ignore = '0'; write 1 for a crowd"),
    "unknown category": (first(category_id=0), r"annotations\[0\] has category 0, which is not listed"),
    "category in a list": (first(category_id=[7]), r"has category \[7\]"),
    "category in an object": (first(category_id={"id": 7}), r"has category \{'id': 7\}"),
    "category of a float": (first(category_id=7.0), r"has category 7.0"),
    "id of a category in a list": (lambda c: c["categories"][0].update(id=[7]), r"categories\[0\] has id = \[7\]"),
    "image in a list": (first(image_id=[1]), r"belongs to image \[1\], which is not listed"),
    "unknown image": (first(image_id="1"), "belongs to image '1', which is not listed"),
    "annotation is text": (lambda c: c["annotations"].insert(0, "a"), r"annotations\[0\] is 'a'"),
    "image id null": (lambda c: c["images"][0].update(id=None), r"images\[0\] has id = None"),
    "two images of one id": (lambda c: c["images"][1].update(id=1), "two of the images have id 1; give each its own"),
    "two images of one file": (names("001.jpg"), "two of the images have file_name '001.jpg'"),
    "two categories": (lambda c: c["categories"].append({"id": 7, "name": "b"}), "two of the categories have id 7"),
    "category without a name": (lambda c: c["categories"][0].update(name=""), r"categories\[0\] has name = ''"),
    "more categories than any data set": (
        lambda c: c["categories"].extend({"id": 100 + i, "name": f"n{i}"} for i in range(2**14)),
        "16,385 categories, at most 16,384 are told apart",
    ),
    "parent folder": (names("../train2017/000.jpg"), r"images\[0\] has file_name .* out of the folder of images"),
    "inner parent folder": (names("a/../../b.jpg"), "out of the folder of images"),
    "absolute name": (names("/etc/hostname"), "out of the folder of images"),
    "drive": (names("C:\\x.jpg"), "out of the folder of images"),
    "name of a share": (names("\\\\host\\x.jpg"), "out of the folder of images"),
    "inner parent of Windows": (names("a\\..\\..\\b.jpg"), "out of the folder of images"),
    "home": (names("~/x.jpg"), "out of the folder of images"),
    "NUL": (names("a\0.jpg"), r"images\[0\] has file_name = 'a\\x00.jpg'"),
    "two lines": (names("a\nfine: b.jpg"), r"images\[0\] has file_name = 'a\\nfine: b.jpg'"),
    "half a character": (names("\ud800.jpg"), r"has file_name = '\\ud800.jpg'|half a surrogate pair"),
    "a name too long for a system": (names("a/" + "b" * 5000), r"images\[0\] has a file_name of 5,002 characters"),
    "width": (lambda c: c["images"][0].update(width=97), "000.jpg: is 96 x 64, its annotations are for 97 x 64"),
    "width of text": (lambda c: c["images"][0].update(width="96"), r"images\[0\] has width = '96'"),
    "width of 400 digits": (lambda c: c["images"][0].update(width=10**400), r"images\[0\] has width = 1000000000"),
    "no width": (lambda c: c["images"][0].update(width=0), r"images\[0\] has width = 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_check_refuses_training_refuses(own_data, case, capsys):
    change, message = REFUSED[case]
    root = own_data(change)
    with pytest.raises(DataError, match=message) as error:
        open_dataset(Layout(root), "instances", validation=0.2)
    assert str(error.value).startswith(str(root))
    assert main([str(root)]) == 1
    assert str(error.value) in capsys.readouterr().out.splitlines()


def test_masks_of_an_image_fit_the_memory():
    """mmdet holds them all at once, a byte for each pixel."""
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 13_000, "height": 10_000}],
        "categories": [{"id": 7, "name": "a"}],
        "annotations": [annotation(number, 1, 4, 6) for number in range(67)],
    }
    faults, _ = examine(content, "instances", training=True)
    text = "the 67 masks of a.jpg of 13000 x 10000 have more than 8,589,934,592 pixels together"
    assert list(faults) == [(text, "make it smaller, or cut it into tiles")]
    assert not examine(content, "boxes", training=True)[0]
    content["annotations"].pop()
    assert not examine(content, "instances", training=True)[0]


def test_120001_images_with_a_duplicate():
    """As many as COCO has, and one again, in seconds; in time that grows with the square it takes minutes."""
    image = {"file_name": "a.jpg", "width": 96, "height": 64}
    entries = [image | {"id": number, "file_name": f"{number}.jpg"} for number in range(120_000)]
    content = {
        "images": [*entries, entries[0]],
        "categories": [{"id": 7, "name": "a"}],
        "annotations": [annotation(number, number, 4, 6) for number in range(0, 120_000, 40)],
    }
    start = time.process_time()
    faults = check_lists(content, "instances")
    examine(content, "instances", training=True)
    assert time.process_time() - start < 20
    assert list(faults) == [("two of the images have id 0 (and 1 more like it)", "give each its own")]


def test_boxes_alone_as_corners(own_data, capsys):
    root = own_data(each(boxes_alone_as_corners))
    assert main([str(root), "--boxes"]) == 1
    assert "all 12 boxes look like [x1, y1, x2, y2]" in capsys.readouterr().out


def test_faults_of_a_kind_are_counted(own_data, capsys):
    main([str(own_data(each(lambda a: a.pop("segmentation"))))])
    lines = capsys.readouterr().out.splitlines()
    assert [line.count("(and 11 more like it)") for line in lines] == [1, 0]
    assert all("--detector res2net-boxes" in line for line in lines)


def test_json_that_is_nested_too_deeply_or_begins_with_a_mark(own_data):
    root = own_data()
    path = Layout(root).instances("val2017")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    open_dataset(Layout(root), "instances", validation=0.2)
    path.write_text('{"images": ' + "[" * 100_000)
    with pytest.raises(DataError, match="instances_val2017.json: broken JSON"):
        open_dataset(Layout(root), "instances", validation=0.2)


def test_an_object_of_no_size_is_skipped_in_training_and_refused_in_the_test_part(own_data, capsys):
    root = own_data(first(bbox=[4, 6, 0, 20]))
    assert main([str(root)]) == 1
    out = capsys.readouterr().out
    assert "train2017.json: annotations of no size: 1" in out
    assert "val2017.json: annotations[0] (id 1, of 000.jpg) has bbox [4, 6, 0, 20] of no size; remove it" in out


REMARKED = {
    "annotations without iscrowd, which counts as 0: 12": each(lambda a: a.pop("iscrowd")),
    "annotations without an area that their image can have, which is computed: 12": each(lambda a: a.pop("area")),
    "annotations without an area that their image can have, which is computed: 1": first(area=0),
    "annotations without an id that is a whole number or text, all of which are numbered anew: 2": lambda c: [
        a.pop("id") for a in c["annotations"][:2]
    ],
    "annotations with an id that another one has, all of which are numbered anew: 10": each(
        lambda a: a.update(id=1 + a["id"] % 2)
    ),
    "annotations with ignore, which counts as iscrowd 1: not learnt and not missed: 1": first(ignore=1),
    "masks with polygons of less than three points, which do not count: 1": lambda c: c["annotations"][0][
        "segmentation"
    ].append([1, 2, 3, 4]),
    "boxes less than a pixel wide or high, which training skips: 1": first(bbox=[4, 6, 0.5, 20]),
    "boxes of which less than half is where their polygons are: 1": first(segmentation=[[60, 40, 80, 40, 80, 60]]),
    "boxes of which less than half is where their polygons are: 2": one_polygon([60, 40, 80, 40, 80, 60], of=2),
    "boxes that are [x1, y1, x2, y2] by their polygons, each taken for [x, y, width, height]: 1": one_polygon(
        [4, 6, 24, 6, 24, 20], of=1
    ),
    "boxes that an object of that category and image has already, each of which counts: 12": lambda c: c[
        "annotations"
    ].extend([a | {"id": 1000 + a["id"]} for a in c["annotations"]]),
    "images without an annotation, which training skips: 1": lambda c: [c["annotations"].pop(0) for _ in range(2)],
}


@pytest.mark.parametrize("text", REMARKED)
def test_what_counts_as_what_is_said_once(own_data, text, capsys, caplog):
    root = own_data(REMARKED[text])
    assert main([str(root)]) == 0
    out = capsys.readouterr().out
    assert out.count(f"instances_train2017.json: {text}\n") == 1
    with caplog.at_level(logging.WARNING, logger="tasks.coco_detection"):
        open_dataset(Layout(root), "instances", validation=0.2)
    assert caplog.text.count(f"instances_train2017.json: {text}") == 1


@pytest.mark.parametrize("share", [0.25, 0.24])
def test_pictures_of_the_test_part_that_were_learnt(own_data, share, monkeypatch, capsys):
    """One in four."""
    monkeypatch.setattr(findings, "SHARED", share)
    root = own_data()
    (root / "val2017/001.jpg").write_bytes((root / "train2017/004.jpg").read_bytes())
    assert main([str(root)]) == (share < 0.25)
    said = "1 of 4 files are in the training part, too, byte for byte: 001.jpg as ../train2017/004.jpg"
    out = capsys.readouterr().out
    assert f"{root}/val2017: {said}{'; take them out' if share < 0.25 else chr(10)}" in out
    assert ("fine: " in out) == (share == 0.25)


def written(dataset, part):
    return json.loads(dataset.part(part).annotations.read_text())


def test_mmdet_reads_uniform_entries(own_data):
    def change(content):
        content["images"][0]["id"] = "a"
        content["categories"][0]["id"] = "t"
        for entry in content["annotations"]:
            entry["category_id"] = "t"
            entry["image_id"] = "a" if entry["image_id"] == 1 else entry["image_id"]
        zero, one, two, three, *_ = content["annotations"]
        zero.pop("iscrowd"), zero.pop("area"), zero.update(id="x")
        one.update(ignore=1, area=-1.0, segmentation={"size": [64, 96], "counts": [100, 7, 64 * 96 - 107]})
        two.update(id=0, iscrowd=True, area=10**9)
        three["segmentation"].append([1, 2, 3, 4])

    dataset = open_dataset(Layout(own_data(change)), "instances", validation=0.2)
    content = written(dataset, "test")
    assert [image["id"] for image in content["images"]] == [1, 2, 3, 4]
    assert content["categories"] == [{"id": 1, "name": "thing"}]
    entries = content["annotations"]
    assert [entry["id"] for entry in entries] == list(range(1, 9))
    assert [entry["image_id"] for entry in entries] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert [entry["iscrowd"] for entry in entries] == [0, 1, 1, 0, 0, 0, 0, 0]
    assert [entry["area"] for entry in entries] == [480, 7, 480, 480, 480, 480, 480, 480]
    assert all(len(entry["segmentation"]) == 1 for entry in entries[2:])
    train, held_out = (written(dataset, part)["images"] for part in ("train", "validation"))
    assert sorted(image["id"] for image in train + held_out) == [1, 2, 3, 4, 5, 6]


def test_boxes_alone_have_no_masks(own_data):
    dataset = open_dataset(Layout(own_data(first(segmentation="none"))), "boxes", validation=0.2)
    assert not any("segmentation" in entry for entry in written(dataset, "train")["annotations"])
