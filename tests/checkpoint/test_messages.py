"""The texts of errors about checkpoints."""

from pathlib import Path

from autoshard.errors import (
    CheckpointExistsError,
    CheckpointKeyError,
    CheckpointLeafError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointPeerError,
    CheckpointVersionError,
    CheckpointWriteError,
    CorruptCheckpointError,
    IncompleteCheckpointError,
)

PATH = Path("run/step_00000005")
TILE = "leaf w, tile [0, 1] = [0:512, 512:1024], file state/w/c/0/0: its checksum differs"

ERRORS = [
    CheckpointExistsError(PATH),
    CheckpointNotFoundError(PATH),
    CheckpointNotFoundError(PATH, ["step_00000003", "step_00000004"]),
    IncompleteCheckpointError(PATH, "it is what an interrupted save left behind"),
    CorruptCheckpointError(PATH, [TILE, "file autoshard/plan.json: is missing"]),
    CorruptCheckpointError(PATH, [TILE] * 40),
    CheckpointVersionError(PATH, 7, 1),
    CheckpointKeyError(["a.b", "a/b"], "both would be stored under the name 'a.b'"),
    CheckpointLeafError("state/fn", "a function"),
    CheckpointWriteError(PATH, "No space left on device"),
    CheckpointPeerError(PATH, 1, "(process id 7 on host) has given no sign of life for 15 s"),
    CheckpointPeerError(PATH, 0, "gave up (OSError: input/output error)", committed=True),
    CheckpointMismatchError(PATH, ["params/kernle"], ["params/kernel"], {}),
    CheckpointMismatchError(PATH, [], ["params/kernel"], {}),
    CheckpointMismatchError(PATH, [], [], {"w": "dtype: saved float32, wanted bfloat16"}),
    CheckpointMismatchError(PATH, [], [], {"w": "shape: saved [4, 3], wanted [3, 4]"}),
]


def test_texts(golden):
    texts = [f"{type(error).__name__} (exit {error.exit_code:d})\n{error}" for error in ERRORS]
    assert all("\nMend it: " in text for text in texts)
    assert all(len(text.splitlines()) <= 21 for text in texts)
    golden("checkpoint_errors", "\n\n".join(texts))
