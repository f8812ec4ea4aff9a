"""Readers of the named data sets, one file per format.

``bundled`` reads the sets inside scikit-learn, and ``idx`` MNIST and Fashion-MNIST. ``cifar10`` and
``femnist`` read formats of their own. ``documentation`` reads the docstrings of installed packages,
and ``published_texts`` the other sets of texts. ``load`` and ``load_texts`` call the readers.
"""
