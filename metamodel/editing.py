"""A trained editor, and what it proposes for one subject. `metamodel.load(path).propose(subject, spec)`."""

import copy
import math
from pathlib import Path

import torch
from torch import Tensor

from metamodel.cases.case import Case, case_of, moved_stream
from metamodel.cases.memory import CaseMemory, begun_at
from metamodel.config.edits import KEEP
from metamodel.config.errors import require
from metamodel.features.observed import last_writer, observed
from metamodel.loading import local_folder, uploaded
from metamodel.networks.editing.told import told_batch
from metamodel.proposal import Proposal
from metamodel.subjects.editing_form import editing_form
from metamodel.subjects.mapped_back import carries_back_w_in, mapped_back
from metamodel.subjects.subject import Subject
from metamodel.subjects.threads import one_thread
from metamodel.training.editing_checkpoint import EditingCheckpoint, load_editing_checkpoint
from metamodel.triples.edit_spec import EditSpec
from metamodel.triples.edits import Examples
from metamodel.triples.spec_checks import check_editable
from metamodel.triples.splits import Splits

UNBOUNDED = "no inputs to keep were given: nothing tells where the edit is to end"


class SubjectEditor:
    """A checkpoint that edits subjects. Make one with `metamodel.load`."""

    def __init__(self, checkpoint: EditingCheckpoint, *, folder: Path | None = None):
        self.checkpoint = checkpoint
        self.folder = folder
        """Where it was loaded from."""
        self._network = copy.deepcopy(checkpoint.editor).double().eval()
        # in float64, as `editing_form` says
        self.memory = CaseMemory()
        """Edits that were solved. `propose` begins from them where it is given them."""

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path) -> "SubjectEditor":
        """From a folder, or a name on the hub.

        Raises: InputError if it is not there, or not a checkpoint of an editor of this version.
        """
        return load(local_folder(name_or_folder))

    def to(self, device: torch.device | str) -> "SubjectEditor":
        """The same editor, which from now on computes on that device, in float64; subjects may be on any.

        Args:
            device: one that has float64, as CPUs and CUDA devices have.
        """
        self._network.to(device)
        return self

    @property
    def splits(self) -> Splits:
        """Which subjects of which zoo it was trained on."""
        return self.checkpoint.splits

    def propose(
        self,
        subject: Subject,
        spec: EditSpec,
        *,
        donor: Subject | None = None,
        memory: CaseMemory | None = None,
        repair: bool = True,
    ) -> Proposal:
        """A change of weights that does what a specification asks for; the subject stays as it is.

        Args:
            donor: whose answers are wanted, of a specification that transplants.
            memory: solved edits to begin from where one is near; `editor.memory` holds what was remembered.
            repair: whether a component may be taken for damaged and put right. Say False for a subject
                that is known to be sound.

        Raises: InputError for a specification that does not fit the subject, and for a subject that cannot
            be edited or overflows on the inputs.
        """
        check_editable(subject)
        return self.propose_for(subject, spec.examples(subject, donor), memory=memory, repair=repair)

    @torch.no_grad()
    def propose_for(
        self,
        subject: Subject,
        examples: Examples,
        *,
        memory: CaseMemory | None = None,
        repair: bool = True,
    ) -> Proposal:
        """The same for a specification in the form that an editor is told, as zoos of edits draw it.

        Raises: InputError for a subject that cannot be edited or overflows on the inputs.
        """
        check_editable(subject)
        with one_thread():
            return self._propose(subject, examples, memory, repair)

    @torch.no_grad()
    def remember(self, proposal: Proposal) -> None:
        """Adds a solved edit to `memory`: what a proposal does to its subject on its own examples.

        Raises: InputError for one that changes the unembedding, where nothing moves in the stream.
        """
        touched = [key for key in proposal.changes if key.startswith(("unembed.", "ln_final."))]
        where = f"{proposal.subject.name}: proposal"
        do = "Remember an edit that an editor proposed."
        require(not touched, where, expected="changes before the last norm", got=", ".join(touched), do=do)
        with one_thread():
            self.memory.add(self.case(proposal))

    @staticmethod
    @torch.no_grad()
    def case(proposal: Proposal) -> Case:
        """A solved edit, as a memory holds it."""
        subject, examples = proposal.subject, proposal.examples
        told = told_batch([editing_form(subject)], [examples])
        moved = moved_stream(subject, proposal.apply(force=True), told)
        return case_of(subject.name, told, observed(told), moved)

    @torch.no_grad()
    def begun(self, subject: Subject, examples: Examples, memory: CaseMemory) -> dict[str, Tensor]:
        """What the nearest cases do by themselves, without any correction; nothing where none is near."""
        with one_thread():
            told = told_batch([editing_form(subject)], [examples])
            begun = memory.begin(told, observed(told))
            if begun is None:
                return {}
            name = last_writer(subject.config)
            return mapped_back(subject, {name: begun.change.view(subject.weights[name].shape)})

    def _propose(
        self, subject: Subject, examples: Examples, memory: CaseMemory | None, repair: bool
    ) -> Proposal:
        editor, home = self._network, subject.weights["embed.W_E"].device
        form = editing_form(subject)
        place = next(editor.parameters()).device
        told = told_batch([form.to(place)], [examples])
        begun = memory.begin(told, observed(told)) if memory else None
        with begun_at(editor.write, begun):
            # what is begun from a case is corrected in the last matrix
            edited = editor(told, deep=begun is None, deep_mlp=carries_back_w_in(subject), components=repair)
        mended = edited.mended.get(0)
        written = edited.changes if mended is None else {mended.name: edited.changes[mended.name]}
        changes = {key: value[0].to(home) for key, value in written.items()}
        forecast = float(edited.forecast[0].sigmoid())
        finite = math.isfinite(forecast) and all(bool(v.isfinite().all()) for v in changes.values())
        require(
            finite,
            f"{subject.name}: proposed change",
            expected="finite factors",
            got="nan or inf",
            do="Check that the subject's logits on these inputs are finite in float32.",
        )
        notes = form.notes if bool((examples.role == KEEP).any()) else (*form.notes, UNBOUNDED)
        if mended is not None:
            where = mended.name if mended.head is None else f"head {mended.head} of {mended.name}"
            notes = (*notes, f"taken for damaged and put right: {where}")
        if begun is not None:
            notes = (*notes, f"begun from what solved {' and '.join(begun.cases)}")
        return Proposal(
            subject=subject,
            examples=examples,
            changes=mapped_back(subject, changes, form=form),
            forecast=forecast,
            refuse_below=self.checkpoint.refuse_below,
            notes=notes,
        )

    def push_to_hub(self, repository: str) -> str:
        """Uploads the folder, metrics and card included, with the user's own login; returns its address.

        Raises: InputError for an editor that was not loaded from a folder.
        """
        return uploaded(self.folder, repository, "an editor")


def load(folder: str | Path) -> SubjectEditor:
    """The editor of a checkpoint's folder.

    Raises: InputError naming path, key, expected and found, if anything is missing, unknown or misshapen.
    """
    return SubjectEditor(load_editing_checkpoint(Path(folder)), folder=Path(folder))
