"""`captioner push`, and training that uploads; what is uploaded is in test_publish.py and test_uploads.py."""

import threading

import pytest
from hub_stand_in import LOOPBACK

from captioner import Captioner
from captioner.commands import push
from captioner.run_folder import read_settings

pytestmark = LOOPBACK


@pytest.mark.parametrize(("words", "private"), [([], True), (["--public"], False)])
def test_a_run_is_uploaded_and_its_address_printed(trained, hub, words, private, capsys):
    assert push.main([str(trained), "me/captioner", *words]) == 0
    repository = hub.repositories["me/captioner"]
    assert capsys.readouterr().out == f"{hub.address}/me/captioner/commit/{repository.head}\n"
    assert repository.private is private
    assert {"model.safetensors", "config.json", "README.md"} <= set(repository.files)


def test_training_uploads_its_best_with_its_evaluation(workshop, hub, capsys):
    assert workshop.train("--trainer.run", "shared", "--hub.repo-id", "me/captioner", "--hub.no-private") == 0
    repository = hub.repositories["me/captioner"]
    assert not repository.private
    assert repository.messages[-1] == "The best model, with its evaluation"
    assert Captioner.from_pretrained("me/captioner").metrics["test"]["images"] == 3
    sent = b"".join(hub.bodies)
    for private in (str(workshop.folder), "captioner train"):
        assert private.encode() not in sent


def test_a_hub_that_refuses_leaves_the_training_whole(workshop, hub, capsys):
    hub.fail("/repos/create", 403)
    assert workshop.train("--trainer.run", "refused", "--hub.repo-id", "me/captioner") == 1
    best = workshop.checkpoints / "refused" / "best"
    assert Captioner.from_pretrained(best).metrics["test"]["images"] == 3
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith(f"the export is safe, upload it with `captioner push {best} me/captioner`")
    )


def test_a_hub_that_does_not_answer_holds_no_training_up(workshop, hub):
    hub.fail("/repos/create", hangs=True)
    trained = workshop.checkpoints / "unanswered" / "evaluation-test.json"

    def answer_after_training():
        hub.wait_for("/repos/create")
        while not trained.exists() and not hub.released.wait(0.01):
            pass
        hub.released.set()

    threading.Thread(target=answer_after_training, daemon=True).start()
    words = ["--trainer.run", "unanswered", "--trainer.max-steps", "0", "--trainer.epochs", "3"]
    assert workshop.train(*words, "--hub.repo-id", "me/captioner") == 0
    assert hub.repositories["me/captioner"].messages[-1] == "The best model, with its evaluation"


def test_training_goes_on_from_what_is_on_the_hub(workshop, trained, hub, tmp_path, monkeypatch, capsys):
    assert push.main([str(trained), "me/captioner"]) == 0
    monkeypatch.chdir(tmp_path)
    words = ["--resume", "me/captioner", "--data.folder", str(workshop.data)]
    assert workshop.train(*words, "--trainer.max-steps", "1") == 0
    run = tmp_path / "checkpoints" / "captioner"
    assert read_settings(run)[1].decoder.width == 16
    assert (run / "step-00000001").is_dir()
    before, begun = Captioner.from_pretrained(trained), Captioner.from_pretrained("me/captioner")
    first = begun.model.state_dict()
    assert all(tensor.equal(first[name]) for name, tensor in before.model.state_dict().items())
    capsys.readouterr()
    assert workshop.train(*words) == 2
    assert "holds a run already: go on with --resume checkpoints/captioner" in capsys.readouterr().err


def test_an_unreachable_hub_is_one_line(export, hub, told):
    hub.close()
    assert push.main([str(export), "me/captioner"]) == 2
    line = told()
    assert line.startswith("error: me/captioner was not uploaded: ")
    assert f"the export is safe, try again with `captioner push {export} me/captioner`" in line


def test_without_a_token(export, monkeypatch, told):
    monkeypatch.setattr("captioner.hub.get_token", lambda: None)
    assert push.main([str(export), "me/captioner"]) == 2
    assert "run `hf auth login` or set HF_TOKEN" in told()


def test_a_missing_run_is_not_looked_for_on_the_hub(told):
    assert push.main(["checkpoints/nowhere", "me/captioner"]) == 2
    assert told() == ("error: checkpoints/nowhere: no such folder; name a run or an export, like checkpoints/scenes\n")


def test_a_run_without_an_export(tmp_path, told):
    assert push.main([str(tmp_path), "me/captioner"]) == 2
    assert told().startswith(f"error: {tmp_path} has no config.json")
