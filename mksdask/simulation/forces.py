"""Kernels of the elastic forces and stresses of `stencils`. Forces are made for a row of elements at a time."""

from __future__ import annotations

import numba
import numpy as np

MATH = {"contract", "reassoc", "nsz"}
jit = numba.njit(cache=True, nogil=True, fastmath=MATH)
inline = numba.njit(inline="always", fastmath=MATH)

# Elements of a row whose coefficients are held together. The buffers have a constant width, which tells the compiler
# that their rows do not overlap: it then computes several elements at once.
CHUNK = 128
WIDTH = CHUNK + 8


def voigt_pairs(dim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows and columns in the tensor of the strain components xx, yy, (zz, yz, xz,) xy."""
    return ((0, 1, 0), (0, 1, 1)) if dim == 2 else ((0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1))


@numba.njit(cache=True, nogil=True)
def n_element_planes(first, last, n):  # type: ignore[no-untyped-def]
    """Count the planes of elements whose corners lie in the planes `first` to `last` of n planes of corners."""
    return n if last - first == n else last - first + 1


@numba.njit(cache=True, nogil=True)
def element_plane(step, first, last, n):  # type: ignore[no-untyped-def]
    """Return one of these planes of elements. Each corner gets its forces in the same order for all parts of n."""
    if first > 0:
        return first - 1 + step
    return step if step < last else n - 1


@inline
def _combine_2d(u, i, ip, start, size, end, w, c):  # type: ignore[no-untyped-def]
    """Write the means over x of the nodes of some elements to the row 2 c of `w`, and the differences to the next."""
    half, lower, upper = u.dtype.type(0.5), u[i, start:], u[ip, start:]
    for j in range(size):
        w[2 * c, j], w[2 * c + 1, j] = half * (lower[j] + upper[j]), upper[j] - lower[j]
    w[2 * c, size], w[2 * c + 1, size] = half * (u[i, end] + u[ip, end]), u[ip, end] - u[i, end]


@inline
def _coefficients_2d(w, c, j, half):  # type: ignore[no-untyped-def]
    """Return the coefficients U of element j for the exponents 10, 01 and 11."""
    mean, difference = 2 * c, 2 * c + 1
    return (
        half * (w[difference, j] + w[difference, j + 1]),
        w[mean, j + 1] - w[mean, j],
        w[difference, j + 1] - w[difference, j],
    )


@inline
def _distribute_2d(f, c, j, half, f10, f01, f11):  # type: ignore[no-untyped-def]
    """Write the forces of element j on its nodes, which belong to forces on its coefficients.

    Those on the lower nodes in y go to ``f[4 c + corner, j]``, and those on the upper ones to
    ``f[4 c + 2 + corner, j + 1]``. Corner 0 is the lower one in x, and corner 1 the upper one.
    """
    f10, f01 = half * f10, half * f01
    f[4 * c, j], f[4 * c + 1, j] = f11 - f10 - f01, f10 - f01 - f11
    f[4 * c + 2, j + 1], f[4 * c + 3, j + 1] = f01 - f10 - f11, f10 + f01 + f11


@inline
def _scatter_2d(f, c, i, ip, start, size, end, first, last, out):  # type: ignore[no-untyped-def]
    """Add the forces of elements on their nodes to `out`, (nx, ny), in the lines from `first` to `last`."""
    for corner in range(2):
        line = ip if corner else i
        if first <= line < last:
            lower, upper, row = f[4 * c + corner], f[4 * c + 2 + corner], out[line, start:]
            for j in range(size):
                row[j] += lower[j] + upper[j]
            out[line, end] += upper[size]


@jit
def forces_2d(u, lam, mu, macro, active, out, first, last):  # type: ignore[no-untyped-def]
    """``out = Bᵀ C (B u + E)`` in plane strain; u, out (n, 2, nx, ny); lam, mu (n, nx, ny)."""
    n, _, nx, ny = u.shape
    real = u.dtype.type
    half, two, three, norm = real(0.5), real(2.0), real(3.0), real(1.0 / 12.0)
    w, f = np.zeros((4, WIDTH), dtype=u.dtype), np.zeros((8, WIDTH), dtype=u.dtype)
    for s in range(n):
        if not active[s]:
            continue
        out[s, :, first:last] = 0.0
        e0, e1, e2 = macro[s, 0], macro[s, 1], macro[s, 2]
        for step in range(n_element_planes(first, last, nx)):
            i = element_plane(step, first, last, nx)
            ip = i + 1 if i + 1 < nx else 0
            for start in range(0, ny, CHUNK):
                size = min(CHUNK, ny - start)
                end = start + size if start + size < ny else 0
                for c in range(2):
                    _combine_2d(u[s, c], i, ip, start, size, end, w, c)
                la_row, mu_row = lam[s, i, start:], mu[s, i, start:]
                for j in range(size):
                    la, m = la_row[j], mu_row[j]
                    x10, x01, x11 = _coefficients_2d(w, 0, j, half)
                    y10, y01, y11 = _coefficients_2d(w, 1, j, half)
                    exx, eyy = x10 + e0, y01 + e1
                    trace, twice, xy = la * (exx + eyy), two * m, m * (x01 + y10 + e2)
                    hourglass = norm * (la + three * m)
                    _distribute_2d(f, 0, j, half, trace + twice * exx, xy, hourglass * x11)
                    _distribute_2d(f, 1, j, half, xy, trace + twice * eyy, hourglass * y11)
                for c in range(2):
                    _scatter_2d(f, c, i, ip, start, size, end, first, last, out[s, c])


@inline
def _modes(a, b, c, d, quarter, half):  # type: ignore[no-untyped-def]
    """Return the mean of four corners in x and y, the difference in x, the one in y, and the difference in both."""
    return quarter * (a + b + c + d), half * (b + d - a - c), half * (c + d - a - b), a + d - b - c


@inline
def combine(u, i, ip, j, jp, start, size, end, w, c):  # type: ignore[no-untyped-def]
    """Write the modes in x and y of the nodes of some elements to the rows 4 c to 4 c + 3 of `w`."""
    quarter, half = u.dtype.type(0.25), u.dtype.type(0.5)
    r00, r10, r01, r11 = u[i, j, start:], u[ip, j, start:], u[i, jp, start:], u[ip, jp, start:]
    for k in range(size):
        mean, x, y, both = _modes(r00[k], r10[k], r01[k], r11[k], quarter, half)
        w[4 * c, k], w[4 * c + 1, k], w[4 * c + 2, k], w[4 * c + 3, k] = mean, x, y, both
    mean, x, y, both = _modes(u[i, j, end], u[ip, j, end], u[i, jp, end], u[ip, jp, end], quarter, half)
    w[4 * c, size], w[4 * c + 1, size], w[4 * c + 2, size], w[4 * c + 3, size] = mean, x, y, both


@inline
def coefficients(w, c, k, half):  # type: ignore[no-untyped-def]
    """Return the coefficients U of element k for the exponents 100, 010, 110, 001, 101, 011 and 111."""
    return (
        half * (w[4 * c + 1, k] + w[4 * c + 1, k + 1]),
        half * (w[4 * c + 2, k] + w[4 * c + 2, k + 1]),
        half * (w[4 * c + 3, k] + w[4 * c + 3, k + 1]),
        w[4 * c, k + 1] - w[4 * c, k],
        w[4 * c + 1, k + 1] - w[4 * c + 1, k],
        w[4 * c + 2, k + 1] - w[4 * c + 2, k],
        w[4 * c + 3, k + 1] - w[4 * c + 3, k],
    )


@inline
def distribute(f, c, k, half, f100, f010, f110, f001, f101, f011, f111):  # type: ignore[no-untyped-def]
    """Write the forces of element k on its nodes, which belong to forces on its coefficients.

    Those on the lower nodes in z go to ``f[8 c + corner, k]``, and those on the upper ones to
    ``f[8 c + 4 + corner, k + 1]``. Corners 0 to 3 are the lower one in x and y, the upper one in x, the upper one in
    y, and the upper one in both.
    """
    f100, f010, f110, f001 = half * f100, half * f010, half * f110, half * half * f001
    x, y, both = half * (f100 - f101), half * (f010 - f011), f110 - f111
    f[8 * c, k], f[8 * c + 1, k] = both - x - y - f001, x - y - both - f001
    f[8 * c + 2, k], f[8 * c + 3, k] = y - x - both - f001, x + y + both - f001
    x, y, both = half * (f100 + f101), half * (f010 + f011), f110 + f111
    f[8 * c + 4, k + 1], f[8 * c + 5, k + 1] = f001 - x - y + both, f001 + x - y - both
    f[8 * c + 6, k + 1], f[8 * c + 7, k + 1] = f001 - x + y - both, f001 + x + y + both


@inline
def scatter(f, c, i, ip, j, jp, start, size, end, first, last, out):  # type: ignore[no-untyped-def]
    """Add the forces of elements on their nodes to `out`, (nx, ny, nz), in the planes from `first` to `last`."""
    for corner in range(4):
        plane, line = ip if corner % 2 else i, jp if corner > 1 else j
        if first <= plane < last:
            lower, upper, row = f[8 * c + corner], f[8 * c + 4 + corner], out[plane, line, start:]
            for k in range(size):
                row[k] += lower[k] + upper[k]
            out[plane, line, end] += upper[size]


@jit
def forces_3d(u, lam, mu, macro, active, out, first, last):  # type: ignore[no-untyped-def]
    """``out = Bᵀ C (B u + E)``; u, out (n, 3, nx, ny, nz); lam, mu (n, nx, ny, nz)."""
    n, _, nx, ny, nz = u.shape
    real = u.dtype.type
    half, two, three, four = real(0.5), real(2.0), real(3.0), real(4.0)
    norm, last_norm = real(1.0 / 12.0), real(1.0 / 144.0)
    w, f = np.zeros((12, WIDTH), dtype=u.dtype), np.zeros((24, WIDTH), dtype=u.dtype)
    for s in range(n):
        if not active[s]:
            continue
        out[s, :, first:last] = 0.0
        e0, e1, e2 = macro[s, 0], macro[s, 1], macro[s, 2]
        e3, e4, e5 = macro[s, 3], macro[s, 4], macro[s, 5]
        for step in range(n_element_planes(first, last, nx)):
            i = element_plane(step, first, last, nx)
            ip = i + 1 if i + 1 < nx else 0
            for j in range(ny):
                jp = j + 1 if j + 1 < ny else 0
                for start in range(0, nz, CHUNK):
                    size = min(CHUNK, nz - start)
                    end = start + size if start + size < nz else 0
                    for c in range(3):
                        combine(u[s, c], i, ip, j, jp, start, size, end, w, c)
                    la_row, mu_row = lam[s, i, j, start:], mu[s, i, j, start:]
                    for k in range(size):
                        la, m = la_row[k], mu_row[k]
                        x100, x010, x110, x001, x101, x011, x111 = coefficients(w, 0, k, half)
                        y100, y010, y110, y001, y101, y011, y111 = coefficients(w, 1, k, half)
                        z100, z010, z110, z001, z101, z011, z111 = coefficients(w, 2, k, half)

                        # monomial 1
                        exx, eyy, ezz = x100 + e0, y010 + e1, z001 + e2
                        trace, twice = la * (exx + eyy + ezz), two * m
                        xx, yy, zz = trace + twice * exx, trace + twice * eyy, trace + twice * ezz
                        yz, xz, xy = m * (y001 + z010 + e3), m * (x001 + z100 + e4), m * (x010 + y100 + e5)
                        # monomials x, y, z: norm 1/12
                        la, m = norm * la, norm * m
                        tx, ty, tz, thrice = la * (y110 + z101), la * (x110 + z011), la * (x101 + y011), three * m
                        shear_x, shear_y, shear_z = m * (y101 + z110), m * (x011 + z110), m * (x011 + y101)
                        # monomials xy, yz, xz: norm 1/144
                        h = last_norm * (la_row[k] + four * mu_row[k])

                        x101, x110, x011 = tz + thrice * x101, ty + thrice * x110, shear_y + shear_z
                        distribute(f, 0, k, half, xx, xy, x110, xz, x101, x011, h * x111)
                        y101, y110, y011 = shear_x + shear_z, tx + thrice * y110, tz + thrice * y011
                        distribute(f, 1, k, half, xy, yy, y110, yz, y101, y011, h * y111)
                        z101, z110, z011 = tx + thrice * z101, shear_x + shear_y, ty + thrice * z011
                        distribute(f, 2, k, half, xz, yz, z110, zz, z101, z011, h * z111)
                    for c in range(3):
                        scatter(f, c, i, ip, j, jp, start, size, end, first, last, out[s, c])


@inline
def multiply_3(a, b, c, aa, ab, ac, bb, bc, cc):  # type: ignore[no-untyped-def]
    """Multiply a symmetric 3 × 3 matrix by a vector."""
    return aa * a + ab * b + ac * c, ab * a + bb * b + bc * c, ac * a + bc * b + cc * c


@inline
def _multiply_5(a, b, c, d, e, aa, ab, ac, ad, ae, bb, bc, bd, be, cc, cd, ce, dd, de, ee):  # type: ignore[no-untyped-def]
    """Multiply a symmetric 5 × 5 matrix by a vector."""
    return (
        aa * a + ab * b + ac * c + ad * d + ae * e,
        ab * a + bb * b + bc * c + bd * d + be * e,
        ac * a + bc * b + cc * c + cd * d + ce * e,
        ad * a + bd * b + cd * c + dd * d + de * e,
        ae * a + be * b + ce * c + de * d + ee * e,
    )


@jit
def forces_anisotropic_2d(u, packed, macro, active, out, first, last):  # type: ignore[no-untyped-def]
    """``out = Bᵀ C (B u + E)`` in plane strain; u, out (n, 2, nx, ny); packed (n, nx, 6, ny)."""
    n, _, nx, ny = u.shape
    half, norm = u.dtype.type(0.5), u.dtype.type(1.0 / 12.0)
    w, f = np.zeros((4, WIDTH), dtype=u.dtype), np.zeros((8, WIDTH), dtype=u.dtype)
    stiffness = np.zeros((6, WIDTH), dtype=u.dtype)
    for s in range(n):
        if not active[s]:
            continue
        out[s, :, first:last] = 0.0
        e0, e1, e2 = macro[s, 0], macro[s, 1], macro[s, 2]
        for step in range(n_element_planes(first, last, nx)):
            i = element_plane(step, first, last, nx)
            ip = i + 1 if i + 1 < nx else 0
            for start in range(0, ny, CHUNK):
                size = min(CHUNK, ny - start)
                end = start + size if start + size < ny else 0
                for c in range(2):
                    _combine_2d(u[s, c], i, ip, start, size, end, w, c)
                for entry in range(6):
                    row = packed[s, i, entry, start:]
                    for j in range(size):
                        stiffness[entry, j] = row[j]
                for j in range(size):
                    x10, x01, x11 = _coefficients_2d(w, 0, j, half)
                    y10, y01, y11 = _coefficients_2d(w, 1, j, half)
                    c00, c01, c02 = stiffness[0, j], stiffness[1, j], stiffness[2, j]
                    c11, c12, c22 = stiffness[3, j], stiffness[4, j], stiffness[5, j]
                    xx, yy, xy = multiply_3(x10 + e0, y01 + e1, x01 + y10 + e2, c00, c01, c02, c11, c12, c22)
                    # monomial x holds the strains y11 and x11, and monomial y x11 and y11: norm 1/12
                    hx = norm * ((c12 + c02) * y11 + (c22 + c00) * x11)
                    hy = norm * ((c11 + c22) * y11 + (c12 + c02) * x11)
                    _distribute_2d(f, 0, j, half, xx, xy, hx)
                    _distribute_2d(f, 1, j, half, xy, yy, hy)
                for c in range(2):
                    _scatter_2d(f, c, i, ip, start, size, end, first, last, out[s, c])


@jit
def forces_anisotropic_3d(u, packed, macro, active, out, first, last):  # type: ignore[no-untyped-def]
    """``out = Bᵀ C (B u + E)``; u, out (n, 3, nx, ny, nz); packed (n, nx, ny, 21, nz)."""
    n, _, nx, ny, nz = u.shape
    half, norm, last_norm = u.dtype.type(0.5), u.dtype.type(1.0 / 12.0), u.dtype.type(1.0 / 144.0)
    w, f = np.zeros((12, WIDTH), dtype=u.dtype), np.zeros((24, WIDTH), dtype=u.dtype)
    stiffness = np.zeros((21, WIDTH), dtype=u.dtype)
    for s in range(n):
        if not active[s]:
            continue
        out[s, :, first:last] = 0.0
        e0, e1, e2 = macro[s, 0], macro[s, 1], macro[s, 2]
        e3, e4, e5 = macro[s, 3], macro[s, 4], macro[s, 5]
        for step in range(n_element_planes(first, last, nx)):
            i = element_plane(step, first, last, nx)
            ip = i + 1 if i + 1 < nx else 0
            for j in range(ny):
                jp = j + 1 if j + 1 < ny else 0
                for start in range(0, nz, CHUNK):
                    size = min(CHUNK, nz - start)
                    end = start + size if start + size < nz else 0
                    for c in range(3):
                        combine(u[s, c], i, ip, j, jp, start, size, end, w, c)
                    for entry in range(21):
                        row = packed[s, i, j, entry, start:]
                        for k in range(size):
                            stiffness[entry, k] = row[k]
                    for k in range(size):
                        x100, x010, x110, x001, x101, x011, x111 = coefficients(w, 0, k, half)
                        y100, y010, y110, y001, y101, y011, y111 = coefficients(w, 1, k, half)
                        z100, z010, z110, z001, z101, z011, z111 = coefficients(w, 2, k, half)
                        c00, c01, c02, c03 = stiffness[0, k], stiffness[1, k], stiffness[2, k], stiffness[3, k]
                        c04, c05, c11, c12 = stiffness[4, k], stiffness[5, k], stiffness[6, k], stiffness[7, k]
                        c13, c14, c15, c22 = stiffness[8, k], stiffness[9, k], stiffness[10, k], stiffness[11, k]
                        c23, c24, c25, c33 = stiffness[12, k], stiffness[13, k], stiffness[14, k], stiffness[15, k]
                        c34, c35, c44, c45 = stiffness[16, k], stiffness[17, k], stiffness[18, k], stiffness[19, k]
                        c55 = stiffness[20, k]

                        # monomial 1
                        exx, eyy, ezz = x100 + e0, y010 + e1, z001 + e2
                        eyz, exz, exy = y001 + z010 + e3, x001 + z100 + e4, x010 + y100 + e5
                        xx = c00 * exx + c01 * eyy + c02 * ezz + c03 * eyz + c04 * exz + c05 * exy
                        yy, zz, yz, xz, xy = _multiply_5(
                            eyy, ezz, eyz, exz, exy,
                            c11, c12, c13, c14, c15, c22, c23, c24, c25, c33, c34, c35, c44, c45, c55,
                        )  # fmt: skip
                        yy, zz = yy + c01 * exx, zz + c02 * exx
                        yz, xz, xy = yz + c03 * exx, xz + c04 * exx, xy + c05 * exx

                        # monomials x, y, z: norm 1/12. Each holds all strains but the one along its axis.
                        x_yy, x_zz, x_yz, x_xz, x_xy = _multiply_5(
                            y110, z101, y101 + z110, x101, x110,
                            c11, c12, c13, c14, c15, c22, c23, c24, c25, c33, c34, c35, c44, c45, c55,
                        )  # fmt: skip
                        y_xx, y_zz, y_yz, y_xz, y_xy = _multiply_5(
                            x110, z011, y011, x011 + z110, y110,
                            c00, c02, c03, c04, c05, c22, c23, c24, c25, c33, c34, c35, c44, c45, c55,
                        )  # fmt: skip
                        z_xx, z_yy, z_yz, z_xz, z_xy = _multiply_5(
                            x101, y011, z011, z101, x011 + y101,
                            c00, c01, c03, c04, c05, c11, c13, c14, c15, c33, c34, c35, c44, c45, c55,
                        )  # fmt: skip
                        # monomials xy, yz, xz: norm 1/144. Each holds the three strains along the third axis.
                        xy_zz, xy_yz, xy_xz = multiply_3(z111, y111, x111, c22, c23, c24, c33, c34, c44)
                        yz_xx, yz_xz, yz_xy = multiply_3(x111, z111, y111, c00, c04, c05, c44, c45, c55)
                        xz_yy, xz_yz, xz_xy = multiply_3(y111, z111, x111, c11, c13, c15, c33, c35, c55)

                        x110, x101, x011 = norm * (x_xy + y_xx), norm * (x_xz + z_xx), norm * (y_xz + z_xy)
                        distribute(f, 0, k, half, xx, xy, x110, xz, x101, x011, last_norm * (xy_xz + yz_xx + xz_xy))
                        y110, y101, y011 = norm * (x_yy + y_xy), norm * (x_yz + z_xy), norm * (y_yz + z_yy)
                        distribute(f, 1, k, half, xy, yy, y110, yz, y101, y011, last_norm * (xy_yz + yz_xy + xz_yy))
                        z110, z101, z011 = norm * (x_yz + y_xz), norm * (x_zz + z_xz), norm * (y_zz + z_yz)
                        distribute(f, 2, k, half, xz, yz, z110, zz, z101, z011, last_norm * (xy_zz + yz_xz + xz_yz))
                    for c in range(3):
                        scatter(f, c, i, ip, j, jp, start, size, end, first, last, out[s, c])


@jit
def isotropic_stress(lam, mu, strain, out):  # type: ignore[no-untyped-def]
    """``out = λ tr(ε) 1 + 2 μ ε``; lam, mu (n,); strain, out (n, n_components)."""
    n, n_components = strain.shape
    dim = 2 if n_components == 3 else 3
    for k in range(n):
        trace = 0.0
        for v in range(dim):
            trace += strain[k, v]
        for v in range(dim):
            out[k, v] = lam[k] * trace + 2.0 * mu[k] * strain[k, v]
        for v in range(dim, n_components):
            out[k, v] = mu[k] * strain[k, v]


@jit
def anisotropic_stress(packed, strain, out):  # type: ignore[no-untyped-def]
    """``out = C ε``; packed (n_rows, n_packed, n_last); strain, out (n_rows, n_last, n_components)."""
    n_rows, n_last, n_components = strain.shape
    for row in range(n_rows):
        out[row] = 0.0
        position = 0
        for v in range(n_components):
            for other in range(v, n_components):
                entry = packed[row, position]
                for k in range(n_last):
                    out[row, k, v] += entry[k] * strain[row, k, other]
                    if other != v:
                        out[row, k, other] += entry[k] * strain[row, k, v]
                position += 1
