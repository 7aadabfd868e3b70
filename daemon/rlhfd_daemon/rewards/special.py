"""Tail probabilities of the distributions that tests compare with. Equal to scipy's to 1e-9, which the tests check."""

from __future__ import annotations

from math import erfc, exp, fabs, isfinite, lgamma, log, log1p, pi, sqrt

__all__ = ["NORMAL_95", "NORMAL_999", "chi2_sf", "f_sf", "kolmogorov_sf", "least_share", "normal_two_sided"]

NORMAL_95 = 1.959963984540054
NORMAL_999 = 3.290526731491926
_TINY = 1e-300
_EPSILON = 1e-15
_MAX_TERMS = 10_000


def normal_two_sided(z: float) -> float:
    """P(|Z| >= |z|) of a standard normal Z."""
    return erfc(fabs(z) / sqrt(2))


def least_share(part: int, whole: int, z: float = NORMAL_95) -> float:
    """The lower end of Wilson's interval (1927) for the share that ``part`` of ``whole`` are an estimate of."""
    if whole == 0:
        return 0.0
    share, square = part / whole, z * z / whole
    half = z * sqrt(share * (1 - share) / whole + square / whole / 4)
    return max(0.0, (share + square / 2 - half) / (1 + square))


def kolmogorov_sf(x: float) -> float:
    """P(K >= x) of Kolmogorov's limiting distribution (Kolmogorov 1933); the form that converges fast at each end."""
    if x <= 0:
        return 1.0
    if x < 1.18:
        t = exp(-(pi**2) / (8 * x * x))
        return max(0.0, 1 - sqrt(2 * pi) / x * (t + t**9 + t**25 + t**49))
    t = exp(-2 * x * x)
    return max(0.0, 2 * (t - t**4 + t**9 - t**16))


def chi2_sf(x: float, degrees: float) -> float:
    """P(X >= x) of a chi-squared X: the upper incomplete gamma function, by series or continued fraction."""
    if x <= 0:
        return 1.0
    if not isfinite(x):
        return 0.0
    a, x = degrees / 2, x / 2
    scale = exp(a * log(x) - x - lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        for n in range(1, _MAX_TERMS):
            term *= x / (a + n)
            total += term
            if term < total * _EPSILON:
                break
        return max(0.0, 1 - total * scale)
    return min(1.0, scale * _fraction_gamma(a, x))


def _fraction_gamma(a: float, x: float) -> float:
    """Lentz's evaluation of the continued fraction of the upper incomplete gamma function."""
    b = x + 1 - a
    c, d = 1 / _TINY, 1 / b
    result = d
    for n in range(1, _MAX_TERMS):
        factor = -n * (n - a)
        b += 2
        d = 1 / _away(factor * d + b)
        c = _away(b + factor / c)
        result *= c * d
        if fabs(c * d - 1) < _EPSILON:
            break
    return result


def f_sf(x: float, numerator: float, denominator: float) -> float:
    """P(F >= x) of Fisher's F with the given degrees of freedom."""
    if x <= 0:
        return 1.0
    if not isfinite(x):
        return 0.0
    return _beta(denominator / (denominator + numerator * x), denominator / 2, numerator / 2)


def _beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _fraction_beta(x, a, b) / a
    return 1 - front * _fraction_beta(1 - x, b, a) / b


def _fraction_beta(x: float, a: float, b: float) -> float:
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1))
    result = d
    for m in range(1, _MAX_TERMS):
        for factor in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away(1 + factor * d)
            c = _away(1 + factor / c)
            result *= c * d
        if fabs(c * d - 1) < _EPSILON:
            break
    return result


def _away(x: float) -> float:
    return x if fabs(x) > _TINY else _TINY
