import subprocess
import sys


def test_imports_neither_jax_nor_the_rest_of_autoshard():
    code = (
        "import sys, autoshard.cost_model, autoshard.cost_model.fit\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('jax', 'jaxlib', 'flax', 'optax')]\n"
        "bad += [m for m in sys.modules if m.startswith('autoshard.')\n"
        "        and not m.startswith('autoshard.cost_model')]\n"
        "print(bad); sys.exit(bool(bad))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
