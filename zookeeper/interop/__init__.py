"""Published formats in and out: read what others stored without running any of it, write what others can read.

``folder`` admits files, ``pickles`` reads pickles as data, ``tensors`` reads what ``torch.save`` wrote, ``arrays``
reads .npy, .npz and .safetensors. ``names`` recognises networks and knows the published key names, ``sidecar`` is what
an export says about itself. ``source`` is a set of models to import; ``ray_tune``, ``unterthiner``, ``weight_files``,
``matrix`` and ``pickled`` find one. ``importing`` stores a source as a zoo, ``exporting`` writes a zoo out.
"""
