"""What the tests of both explorers ask of a control."""


def assert_moves_there_and_back(explorer, control, value, said):
    """A moved control changes words and picture, and back again it shows what was there.

    said: what the explorer's summary says of the value.
    """
    words, picture, before = explorer.status.value, explorer.picture.value, control.value
    control.value = value
    assert explorer.status.value != words
    assert explorer.picture.value != picture
    assert said in explorer.summary()
    control.value = before
    assert (explorer.status.value, explorer.picture.value) == (words, picture)
