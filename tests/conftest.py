import sys
from pathlib import Path

# Tests share helpers as `support`; importlib mode puts nothing on the path by itself.
sys.path.insert(0, str(Path(__file__).parent))
