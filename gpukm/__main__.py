"""``python -m gpukm`` is ``gpukm``."""

from gpukm.cli.main import main

raise SystemExit(main())
