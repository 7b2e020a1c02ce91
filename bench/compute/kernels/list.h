// list.h names every kernel once, in the order in which they are listed.
#define KERNELS(X)                                                             \
    X(gemm) X(gemm3) X(symm) X(syrk) X(syr2k) X(trmm) X(contract)              \
    X(power) X(gemver) X(gesummv) X(bicg) X(cg)                                \
    X(lu) X(invert) X(cholesky) X(trsm) X(durbin)                              \
    X(gramschmidt) X(householder)                                              \
    X(heat1) X(heat2) X(heat3) X(seidel) X(adi) X(fdtd)                        \
    X(floyd) X(nussinov) X(align)                                              \
    X(deriche) X(convolve) X(fft)                                              \
    X(correlation) X(covariance) X(kmeans)                                     \
    X(nbody) X(mandelbrot)
