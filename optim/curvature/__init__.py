"""Curvature operators: products with Hessian, Gauss-Newton and Fisher matrices of a network, preconditioned or not."""
