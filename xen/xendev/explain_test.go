package xendev

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/xenchan/xenchan/internal/sys"
)

func TestExplain_saysWhatToDo(t *testing.T) {
	onXen := filepath.Join(t.TempDir(), "type")
	if err := os.WriteFile(onXen, []byte("xen\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name, path, machine, want string
		errno                     syscall.Errno
	}{
		{"no driver", sys.EvtchnDevice, onXen, "modprobe xen-evtchn", syscall.ENOENT},
		{"node without driver", sys.GntallocDevice, onXen, "modprobe xen-gntalloc", syscall.ENXIO},
		{"no rights", sys.GntdevDevice, onXen, "as root", syscall.EACCES},
		{"no Xen", sys.GntdevDevice, "/nonexistent", "not a Xen domain", syscall.ENOENT},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			old := hypervisorType
			t.Cleanup(func() { hypervisorType = old })
			hypervisorType = c.machine
			err := explain(&fs.PathError{Op: "open", Path: c.path, Err: c.errno})
			if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.path) {
				t.Errorf("explained as %q, want %q in it", err, c.want)
			}
			if !errors.Is(err, c.errno) {
				t.Errorf("%v is not %v any more", err, c.errno)
			}
		})
	}
}

func TestExplain_leavesOthersAlone(t *testing.T) {
	if err := explain(syscall.EINVAL); err != syscall.EINVAL {
		t.Errorf("EINVAL became %v", err)
	}
}
