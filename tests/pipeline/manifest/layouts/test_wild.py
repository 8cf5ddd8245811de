"""WildDeepfake: frame folders below real_train, fake_test and the like."""


def test_frame_folders(tree, scan):
    tree(
        *(f"fake_train/1/fake/3/{name}.png" for name in ("0", "1", "7")), *(f"fake_train/1/fake/4/x{n}_a.png" for n in range(2))
    )
    tree(*(f"real_test/2/real/1/{n}.png" for n in range(2)))
    made, rows = scan()
    assert made.layout == "WildDeepfake"
    assert {path: (row["kind"], row["label"], row["split"], row["frames"]) for path, row in rows.items()} == {
        "fake_train/1/fake/3": ("frames", 1, "train", 3),
        "fake_train/1/fake/4": ("frames", 1, "train", 2),
        "real_test/2/real/1": ("frames", 0, "test", 2),
    }


def test_files_and_the_other_order_of_words(tree, scan):
    tree("Train_Fake/a.mp4", "val_real/b.jpg", "notes/c.jpg")
    made, rows = scan()
    assert {path: (row["label"], row["split"]) for path, row in rows.items()} == {
        "Train_Fake/a.mp4": (1, "train"),
        "val_real/b.jpg": (0, "val"),
    }
    assert made.ignored.unplaced == {"notes": 1}
