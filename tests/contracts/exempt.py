"""Names without a contract: those that take no argument, and those that a user does not call."""

NOTHING_TO_GIVE = """
    arm disarm enum local_expectation mvd forward_filter
    Target.latents GenerativeFunction.mask WeightedDraws.psis Comparison.by_site EstimatorChoice.apply
    Posterior.diagnostics Fitted.diagnostics WeightedDraws.diagnostics Draws.diagnostics
""".split()
"""Names that take no argument."""

MADE_BY_THE_LIBRARY = {
    "BiasReport": "what check_unbiased returns",
    "Comparison": "what compare_estimators returns",
    "EstimatorChoice": "what tune_estimators returns",
    "EstimatorChoice.plot": "its argument is matplotlib's",
    "Comparison.plot": "its argument is matplotlib's",
    "Calibration": "what sbc returns",
    "Calibration.plot": "it takes nothing",
    "Calibration.words": "the library's own: what it prints",
    "Draws": "what nuts and hmc return",
    "Evaluation": "what evaluate returns",
    "PredictiveCheck": "what predictive_check returns",
    "Fit": "what fit returns",
    "Trace": "what simulate returns",
    "Unconstrained": "what to_unconstrained returns",
    "Unconstrained.centred": "the library's own: what a family calls",
    "WeightedDraws": "what importance_sampling returns",
    "GenerativeFunction": "abstract: `gen` makes one",
    "GenerativeFunction.visit": "the library's own: what an author of a combinator writes",
    "Target.visit": "the library's own: what an author of an algorithm calls",
    "Fitted.chains": "the library's own: what `to_arviz` calls",
    "Fitted.log_density": "the library's own: what `log_prob` calls",
    "Posterior": "abstract: a fit, importance sampling and Markov chains make one",
    "Posterior.chains": "the library's own: what `to_arviz` calls",
    "Posterior.latents": "abstract: what an author of a posterior writes",
    "Posterior.log_density": "the library's own: what an author of a posterior writes",
    "Draws.chains": "its arguments are those of every posterior, and have no use here",
    "Draws.log_density": "the library's own: what `log_prob` calls",
    "ModelGraph": "what model_graph returns",
    "ModelGraph.dot": "it takes nothing",
    "ModelGraph.levels": "it takes nothing",
    "Summary": "what `summary` returns",
    "WeightedDraws.chains": "the library's own: what `to_arviz` calls",
    "WeightedDraws.log_density": "the library's own: what `log_prob` calls",
    "auto.Family": "abstract: `mean_field` makes one",
    "auto.Family.draw": "the library's own: what an author of a family writes",
    "auto.Family.matched": "the library's own: what `vi` calls",
    "auto.Family.point_at": "the library's own: what an author of a family calls in `draw`",
    "auto.Family.start": "the library's own: what an author of a family writes",
    "auto.Family.weigh": "the library's own: what an author of a family writes",
}
"""Names that a user does not call, and why."""
