"""The small data sets and the moments that test_reference_posteriors checks against.

Sources: posteriordb (Magnusson et al., 2024; BSD-3, commit 28f8d3d), its data, and its moments for kilpisjarvi, lynx
and hare, elimination and the Gaussian process, from 10,000 draws of NUTS; moments by quadrature, exact to the digits
given, for the generalised linear models and the eight schools; closed form for the funnel.
"""

import numpy as np


def numbers(text: str, kind: type = float) -> np.ndarray:
    """The numbers in a text."""
    return np.array([kind(x) for x in text.split()])


DATA = {
    "eight_schools": {"y": numbers("28 8 -3 7 -1 1 18 12"), "sigma": numbers("15 10 16 11 9 11 10 18")},
    "GLM_Poisson_Data": {
        "year": np.linspace(-1.66802789939819, 1.66802789939819, 40),
        "C": numbers(
            """
            29 36 19 28 36 29 20 19 35 32 34 34 33 47 48 46 46 49 60 64 87 85 85 95 115 127 142 168 181 194 200 210
            208 235 244 272 239 263 239 245
            """,
            int,
        ),
    },
    "GLM_Binomial_data": {
        "year": np.linspace(-0.95, 1.0, 40),
        "C": numbers(
            """
            27 42 35 55 61 19 41 74 43 42 73 37 48 49 19 72 30 18 31 71 63 51 48 73 49 54 43 59 30 24 62 55 51 47 14
            27 45 20 26 19
            """,
            int,
        ),
        "N": numbers(
            """
            43 83 53 91 95 24 62 91 64 57 97 56 74 66 28 92 40 23 46 96 91 75 71 100 72 77 64 68 43 32 97 92 75 84
            22 58 81 37 45 39
            """,
            int,
        ),
    },
    "kilpisjarvi_mod": {
        "x": np.arange(3952, 4014),
        "y": numbers(
            """
            8.3 10.9 9.4 8.1 8.1 7.7 8.6 9.1 11 10.1 7.6 8.8 8.3 7.2 9.3 8.8 7.6 10.5 11 8.9 11.3 10 10.1 6.4 8.2
            8.4 9.5 9.9 10.6 7.6 7.7 8.1 8.4 9.7 9.5 7.3 10.3 9.6 10.3 9.8 9 9.1 9.5 8.7 9.9 10.5 9.4 9 9 9.7 11.4
            10.7 10.1 10.8 10.4 10.3 8.8 9.8 8.8 10.8 8.6 11.1
            """
        ),
        "pmualpha": 9.31290322580645,
        "psalpha": 100.0,
        "pmubeta": 0.0,
        "psbeta": 0.0333333333333333,
    },
    "hudson_lynx_hare": {
        "ts": np.arange(1, 21),
        "y_init": [30, 4],
        "y": numbers(
            """
            47.2 6.1 70.2 9.8 77.4 35.2 36.3 59.4 20.6 41.7 18.1 19 21.4 13 22 8.3 25.4 9.1 27.1 7.4 40.3 8 57 12.3
            76.6 19.5 52.3 45.7 19.5 51.1 11.2 29.7 7.6 15.8 14.6 9.7 16.2 10.1 24.7 8.6
            """
        ).reshape(20, 2),
    },
    "one_comp_mm_elim_abs": {
        "D": 30.0,
        "V": 2.0,
        "times": np.arange(1, 21) / 2.0,
        "C_hat": numbers(
            """
            5.708123 7.101261 8.385207 9.790082 13.43904 11.4479 11.21243 11.42692 12.24329 13.82018 13.84087
            11.42229 10.50319 11.91215 14.085 10.55051 10.19055 12.22323 11.72907 12.27194
            """
        ),
    },
    "gp_pois_regr": {
        "x": np.arange(-10, 11, 2),
        "y": numbers("4.75906 1.59423 2.99548 5.27501 1.66472 2.24347 2.8914 4.08681 4.60588 0.802364 3.92136"),
    },
    "": {},
}

REFERENCE = {
    "eight_schools (exact": {
        "mean": numbers("6.211884 4.940178 3.927004 4.757098 3.615477 4.042613 6.296724 4.854253 4.396821 3.597705"),
        "sd": numbers("5.593126 4.674268 5.262615 4.780297 4.657453 4.826866 5.077849 5.290801 3.317704 3.219958"),
        "log_evidence": -31.31135,
    },
    "GLM_Poisson_Data-GLM_Poisson_model": {
        "mean": numbers("4.284578 1.246171 0.06933669 -0.2296048"),
        "sd": numbers("0.02935303 0.04477146 0.02351726 0.0233699"),
        "log_evidence": -163.33685,
    },
    "GLM_Binomial_data-GLM_Binomial_model": {
        "mean": numbers("1.014527 -0.1732382 -0.9225202"),
        "sd": numbers("0.06464951 0.07274551 0.1462473"),
        "log_evidence": -130.82260,
    },
    "kilpisjarvi_mod-kilpisjarvi": {
        "mean": numbers("-60.71228 0.01758363 1.131667"),
        "sd": numbers("29.96467 0.007524213 0.1078191"),
    },
    "hudson_lynx_hare-lotka_volterra": {
        "mean": numbers("0.5468645 0.02774729 0.8000954 0.02408592 34.03522 5.935897 0.2480569 0.2510169"),
        "sd": numbers("0.06305479 0.004154718 0.08937018 0.00352809 2.916899 0.530552 0.04326268 0.04359034"),
    },
    "one_comp_mm_elim_abs-one_comp_mm_elim_abs": {
        "mean": numbers("0.7610134 2.537281 0.9818208 0.1288348"),
        "sd": numbers("0.0779038 7.275812 0.5633165 0.02340232"),
    },
    "gp_pois_regr-gp_regr": {
        "mean": numbers("6.874348 2.4424 1.828731"),
        "sd": numbers("1.265756 0.7818327 0.5050161"),
    },
    "inference_gym/NealsFunnel": {
        "mean": numbers("0 0 0 0 0 0 0 0 0 0"),
        "sd": numbers("3 9.487736 9.487736 9.487736 9.487736 9.487736 9.487736 9.487736 9.487736 9.487736"),
    },
}
