"""What a command says when the scheduler dies."""

from asyncio import CancelledError

import pytest
import zarr
from click.testing import CliRunner
from distributed.comm import CommClosedError

import mksdask.cli.stores
from mksdask.cli import main


@pytest.mark.parametrize("error", [CancelledError("work"), CommClosedError("closed")])
@pytest.mark.parametrize("resume", [True, False])
def test_command__says_what_is_kept_when_the_scheduler_dies(tmp_path, monkeypatch, error, resume):
    def dies(*arguments, **options):
        raise error

    (tmp_path / "x.npy").write_bytes(b"")
    monkeypatch.setattr(mksdask.cli.stores, "open_client", dies)
    line = ["import", str(tmp_path / "x.npy"), str(tmp_path / "s.zarr"), *(["--resume"] if resume else [])]
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 1
    assert "the scheduler of dask ended, or the connection to it was lost; " in result.stderr
    told = "the same call with --resume continues with it" if resume else "call again with --resume"
    assert result.stderr.strip().endswith(told) or told in result.stderr


@pytest.mark.parametrize("line", ["stats", "info", "fit", "predict", "localize", "plan stats", "plan fit"])
def test_command__has_the_option_for_missing_chunks(line):
    assert "--allow-missing" in CliRunner().invoke(main, [*line.split(), "--help"]).output


@pytest.mark.filterwarnings("default:.*lacks 2 of 4 chunks")
def test_info__takes_missing_chunks_only_by_request(tmp_path):
    values = zarr.open_group(tmp_path / "x.zarr", mode="w").create_array(
        "microstructure", shape=(4, 6, 7), chunks=(1, 6, 7), dtype="u1", dimension_names=("sample", "x", "y")
    )
    values[:2] = 1
    assert "--allow-missing to the command" in CliRunner().invoke(main, ["info", str(tmp_path / "x.zarr")]).stderr
    result = CliRunner().invoke(main, ["info", str(tmp_path / "x.zarr"), "--allow-missing"])
    assert result.exit_code == 0, result.output
    assert "lacks 2 of 4 chunks" in result.stderr
