"""The renderer that runs give to their results, so that `PruneResult.save` and `PruneResult.report` can use it."""

from hybrid_icbs.report.model_card import write_card
from hybrid_icbs.report.page import render
from hybrid_icbs.result import Renderer

RENDERER = Renderer(write_card, render)
