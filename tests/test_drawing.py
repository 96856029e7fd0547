"""What is drawn into pictures is where it belongs, in the colours of the legend."""

import numpy as np

from vitjax import drawing

RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_a_box_is_drawn_at_its_edges_and_nowhere_else():
    black = np.zeros((40, 80, 3), np.uint8)
    boxed = drawing.boxed(black, np.array([[0.25, 0.5, 0.75, 0.75]]), ["cat"], [RED])
    assert not black.any()
    rows, columns = np.nonzero((boxed == RED).all(-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 29, 40, 59)
    assert not boxed[13:26, 43:56].any() and not boxed[:10].any()


def test_a_box_beyond_measure_or_without_area_is_drawn_all_the_same():
    for box in ([0, 0, 1, 1], [0.5, 0.5, 0.5, 0.5]):
        boxed = drawing.boxed(np.zeros((20, 20, 3), np.uint8), np.array([box]), ["x"], [RED])
        assert (boxed == RED).all(-1).any()


def test_a_mask_tints_its_classes_and_leaves_the_rest():
    picture, mask = np.full((8, 8, 3), 100, np.uint8), np.zeros((4, 4), np.uint8)
    mask[:2], mask[2] = 1, 2
    tinted = drawing.tinted(picture, mask, {1: RED})
    np.testing.assert_array_equal(tinted[0, 0], [178, 50, 50])
    np.testing.assert_array_equal(tinted[4:], picture[4:])


def test_colours_of_classes_differ():
    colours = np.array([drawing.colour(k) for k in range(20)], int)
    apart = np.abs(colours[:, None] - colours).sum(-1)[np.triu_indices(20, 1)]
    assert apart.min() > 20


def test_a_cell_is_no_larger_than_its_place_and_small_pictures_grow():
    assert drawing.cell(np.zeros((1000, 500, 3), np.uint8)).shape == (256, 128, 3)
    small = drawing.cell(np.arange(3 * 32 * 32, dtype=np.uint32).astype(np.uint8).reshape(32, 32, 3))
    assert small.shape == (256, 256, 3) and (small[:8, :8] == small[0, 0]).all()


def test_long_texts_are_cut_at_the_end_and_names_at_the_beginning():
    assert len(drawing.wrapped("word " * 100)) == drawing.MOST_LINES
    assert drawing.wrapped("word " * 100)[-1][0].endswith("...") and drawing.wrapped("") == ()
    assert drawing.ending("folder/" * 10 + "a.jpg")[0][0].endswith("/a.jpg")
    assert drawing.ending("folder/" * 10 + "a.jpg")[0][0].startswith("...")


def test_a_sheet_holds_its_pictures_and_the_colours_of_its_legend():
    red, green = np.full((256, 200, 3), RED, np.uint8), np.full((100, 256, 3), (0, 255, 0), np.uint8)
    tiles = [
        drawing.Tile(red, drawing.wrapped("a red one")),
        drawing.Tile(green),
        drawing.wrong("it is empty", "x.jpg"),
    ]
    sheet = drawing.sheet("a title " * 30, [tiles[:2], tiles[2:]], {f"class {k}": BLUE for k in range(40)})
    assert (sheet == RED).all(-1).sum() == red.size // 3
    assert (sheet == (0, 255, 0)).all(-1).sum() == green.size // 3
    assert (sheet == BLUE).all(-1).sum() == 40 * 13 * 13
