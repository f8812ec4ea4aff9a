"""``python -m fedlab.models NAME ...``"""

import sys

from fedlab.models.language import main

sys.exit(main(sys.argv[1:]))
