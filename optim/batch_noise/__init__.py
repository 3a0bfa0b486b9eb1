"""What a batch adds to gradient and Hessian: noise scales, random-matrix laws, sharpness at any batch size."""
