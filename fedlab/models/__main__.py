"""``python -m fedlab.models NAME`` fetches a model; without a name it lists what there is."""

import sys

from fedlab.models.language import main

sys.exit(main(sys.argv[1:]))
