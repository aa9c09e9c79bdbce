"""memo.lua: what is kept between calls is bounded, right for each text, and never a refusal."""


def test_more_different_options_and_heads_than_are_kept_are_each_read_right(raw):
    """The thousand that are kept are forgotten, not mixed up; those that come again are worked out again."""
    wanted = {raw.push(options=f"m{limit}"): limit for limit in [*range(1, 1103), 1, 2, 3]}
    for id_, receipt, *_ in (found for _ in range(6) for found in raw.get(200)):
        state = raw.server.hget(f"{raw.base}:state", id_)
        assert f"m{wanted.pop(id_)}".encode() in state.split()[-1:]
        assert receipt
    assert not wanted


def test_a_refusal_is_given_each_time(raw):
    """Wrong options are wrong whenever they come, also between right ones."""
    for _ in range(2):
        with raw.refused("INVALID_OPTION"):
            raw.push(options="p101")
        raw.push(options="p100")
