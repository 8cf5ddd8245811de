"""Why a detector says what it says of a clip, and whether that explanation can be trusted.

relevance.py   gradient x activation: how much each token moves the logit
looks.py       what the network looked at: attention of its pools, places that D2ST sampled
evidence.py    both, and what each layer adds: `explain`
curves.py      deletion and insertion in pixels: does the detector go by what a map shows
pointing.py    does a map point at what was manipulated
faithful.py    both over many clips, against random maps and other opponents
panels.py      evidence on one crop; rows.py, keys.py, figure.py, film.py: laid out as PNG and film
document.py    all numbers as JSON
"""

from d2st.adapter.explain.document import evidence_document
from d2st.adapter.explain.evidence import Evidence, LayerShare, explain
from d2st.adapter.explain.figure import Caption, evidence_png
from d2st.adapter.explain.film import evidence_film
from d2st.adapter.explain.looks import Attention, SampledPoints
from d2st.adapter.explain.relevance import Relevance, relevance

__all__ = [
    "Attention",
    "Caption",
    "Evidence",
    "LayerShare",
    "Relevance",
    "SampledPoints",
    "evidence_document",
    "evidence_film",
    "evidence_png",
    "explain",
    "relevance",
]
