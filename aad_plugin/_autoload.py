"""What the ``.pth`` line of this package runs at interpreter start: a hook that waits for lm-eval to be imported.

Released lm-eval (0.4.13) discovers no plug-ins. Until one that does is everywhere, the first import of five of its
modules is followed by a call into ``aad_plugin.harness.registration``. Nothing else is imported, read or sent; where
lm-eval is never imported nothing happens at all. ``AAD_PLUGIN_AUTOLOAD=0`` turns it off.
"""

import sys

_WATCHED = {
    "lm_eval.models": "register_models",
    "lm_eval.tasks.manager": "register_tasks",
    "lm_eval.loggers.evaluation_tracker": "register_output_folders",
    "lm_eval.config.evaluate_config": "register_plain_errors",
    "lm_eval._cli": "print_errors_plainly",
}


class _Watcher:
    """A finder that finds nothing by itself: it lets the others find a watched module and runs one call after it."""

    def find_spec(self, name, path=None, target=None):
        if name not in _WATCHED:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                self._follow(spec)
                return spec
        return None

    def _follow(self, spec):
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            from aad_plugin.harness import registration

            getattr(registration, _WATCHED[spec.name])()

        spec.loader.exec_module = exec_module


def install():
    """Put the watcher first in line; a second call changes nothing."""
    if not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())
