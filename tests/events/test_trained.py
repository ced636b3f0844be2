"""What is trained of a model, as it is journaled."""

from __future__ import annotations

import msgspec
import pytest

from events.trained import Trained


def test_it_reads_back_and_takes_no_other_field() -> None:
    trained = Trained(layers={"q_proj": 2}, parameters=512, share=0.01)
    data = msgspec.json.encode(trained)
    assert msgspec.json.decode(data, type=Trained) == trained
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"layers":{},"parameters":1,"share":1.0,"more":1}', type=Trained)
