// Package packaging holds no code but tests of what `make install` installs: the
// unit and its companions, judged by systemd's own tools.
package packaging
