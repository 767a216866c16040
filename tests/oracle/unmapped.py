"""The operators of torch that have no counterpart here, by the reason. A name counts for all its
variants, `fft.*` for all that begin so."""

from __future__ import annotations

UNMAPPED = {
    "complex numbers do not exist here": """
        fft.* complex polar view_as_real view_as_complex stft istft resolve_conj resolve_neg
        conj_physical cdouble cfloat chalf nn.functional.silu/complex
    """,
    "which of two opposite vectors comes out is open": """
        linalg.svd svd linalg.eigh svd_lowrank pca_lowrank
    """,
    "eigenvalues of matrices that are not symmetric are complex numbers": """
        linalg.eig linalg.eigvals
    """,
    "gives a code where others raise an error": """
        linalg.cholesky_ex linalg.inv_ex linalg.solve_ex linalg.ldl_factor_ex linalg.lu_factor_ex
    """,
    "the residuals, rank and singular values depend on the driver of LAPACK": "linalg.lstsq",
    "not built: a factorization that few programs need": """
        cholesky_inverse geqrf lu lu_solve lu_unpack matrix_exp ormqr triangular_solve logdet
        linalg.householder_product linalg.ldl_factor linalg.ldl_solve linalg.lu
        linalg.lu_factor linalg.lu_solve linalg.tensorinv linalg.tensorsolve linalg.vander
    """,
    "sparse and segmented layouts do not exist here": """
        sparse.sampled_addmm sparse.mm/reduce to_sparse _segment_reduce/lengths
        _segment_reduce/offsets
    """,
    "draws from a generator, which is another one here": """
        bernoulli cauchy exponential geometric log_normal multinomial normal uniform rand_like
        randn_like randint_like randint randn nn.functional.dropout nn.functional.dropout2d
        nn.functional.dropout3d nn.functional.alpha_dropout
        nn.functional.feature_alpha_dropout/with_train nn.functional.rrelu
        nn.functional.fractional_max_pool2d nn.functional.fractional_max_pool3d
    """,
    "a kernel of torch for its own use, not a function of its interface": """
        _softmax_backward_data native_group_norm native_layer_norm native_batch_norm
        _native_batch_norm_legit _batch_norm_with_update _upsample_bilinear2d_aa
        torch._scaled_mm torch._scaled_mm_v2 torch.ops.aten.* _unsafe_masked_index
        _unsafe_masked_index_put_accumulate _chunk_cat native_dropout_backward jiterator_*
        hash_tensor max_pool2d_with_indices_backward bmm/triton_optimized
    """,
    "tensors here have no views, strides or storage to change": """
        as_strided/partial_views as_strided_scatter resize_ resize_as_ new_empty_strided
        empty_strided empty_permuted
    """,
    "not built: a special function that few programs need": """
        special.airy_ai special.bessel_* special.modified_bessel_*
        special.scaled_modified_bessel_* special.spherical_bessel_j0
        special.chebyshev_polynomial_* special.hermite_polynomial_*
        special.laguerre_polynomial_l special.legendre_polynomial_p
        special.shifted_chebyshev_polynomial_* igamma igammac
    """,
    "not built": """
        nn.functional.grid_sample grid_sampler_2d grid_sampler_3d
        nn.functional.linear_cross_entropy histogramdd nonzero_static
    """,
    "a layer here (nn.MultiheadAttention), not a function": """
        nn.functional.multi_head_attention_forward
    """,
}
