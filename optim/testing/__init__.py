"""A conformance suite for optimizer wrappers: 20 conventions of torch and 19 of Lightning, each one checkable.

    from krylearn.optim.testing import Subject, conventions

    subject = Subject(wrap=MyWrapper, base=lambda params, **options: torch.optim.SGD(params, **{"lr": 0.1} | options))

    @pytest.mark.parametrize("convention", conventions(), ids=str)
    def test_my_wrapper(convention):
        convention.check(subject)

A check raises AssertionError with what it saw and what the convention wants. Where each comes from is in its text: a
module of torch 2.13 or Lightning 2.6. The Lightning checks need `pip install "krylearn[train]"`.
"""

from .catalogue import conventions
from .subject import Convention, Subject

__all__ = ["Convention", "Subject", "conventions"]
