"""Declarative column operations, fitted exactly in streaming passes and stored with the snapshot.

>>> from gpukm.preprocessing import Log1p, Preprocessing, Standardize
>>> Preprocessing(null_policy="drop", steps=(Log1p(columns=("distance",)), Standardize())).null_policy
'drop'
"""

from gpukm.preprocessing.fitted import Fitted
from gpukm.preprocessing.fitting import fit
from gpukm.preprocessing.prepared import PreparedSource
from gpukm.preprocessing.spec import (
    PCA,
    STEPS,
    Clip,
    L2Normalize,
    Log1p,
    MinMax,
    Preprocessing,
    Robust,
    Standardize,
    Step,
)
from gpukm.preprocessing.text import parse_step, step_text, steps_help

__all__ = [
    "PCA",
    "STEPS",
    "Clip",
    "Fitted",
    "L2Normalize",
    "Log1p",
    "MinMax",
    "PreparedSource",
    "Preprocessing",
    "Robust",
    "Standardize",
    "Step",
    "fit",
    "parse_step",
    "step_text",
    "steps_help",
]
