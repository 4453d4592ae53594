"""
The question that started it
============================

Which 5 x 5 filter made the second of these 6 x 6 matrices out of the first? `Asked on Stack Overflow
<https://stackoverflow.com/questions/55560333>`_ in 2019. Four pixels have their whole neighbourhood inside the matrix,
and a kernel of 25 taps has 25 unknowns: without knowing what lay beyond the edge there is no answer.
"""

import matplotlib.pyplot as plt
import numpy as np

import kernelfit

before = np.array(
    [
        [94, 166, 76, 106, 152, 232],
        [48, 242, 30, 98, 46, 210],
        [52, 60, 86, 60, 216, 248],
        [52, 236, 116, 240, 224, 184],
        [138, 160, 146, 254, 236, 252],
        [94, 100, 224, 246, 152, 74],
    ]
)
after = np.array(
    [
        [15, 49, 23, 105, 0, 0],
        [43, 30, 108, 124, 0, 0],
        [58, 120, 112, 92, 0, 0],
        [73, 127, 118, 126, 0, 0],
        [112, 123, 76, 37, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
)

try:
    kernelfit.find_kernel(before, after, 5)
except ValueError as error:
    print(error)

# %%
# The zeros in the second matrix tell what lay beyond the edge of the first: zeros. Declared, all 36 pixels count.

fit = kernelfit.find_kernel(before, after, 5, boundary="fill")
print(fit.kernel.round(9) + 0.0)

# %%
# One tap of one half: the filter moved the image by one row and two columns, and halved it.

kernelfit.plot.kernel(fit)
plt.show()
