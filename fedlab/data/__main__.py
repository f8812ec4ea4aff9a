"""``python -m fedlab.data mnist`` fetches a data set; without a name it lists what there is."""

import sys

from fedlab.data.cache import main

sys.exit(main(sys.argv[1:]))
