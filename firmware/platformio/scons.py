"""Stands in for PlatformIO's tool-scons: SCons as installed in PlatformIO's own Python."""

try:
    import SCons.Script
except ImportError:
    raise SystemExit("SCons is missing beside PlatformIO: pip install 'scons==4.11.1'") from None

SCons.Script.main()
