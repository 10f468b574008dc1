package rig

import (
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/xenchan/xenchan/internal/rig/cpio"
)

// stage is a root file system being put together from files of unpacked
// packages. Its folders are merged below /usr, as Debian's are.
type stage struct {
	root    string // where the packages are unpacked
	mods    string // the kernel's modules there
	tree    cpio.Tree
	modules []string // in load order
}

// newStage gives a stage with busybox and init as its first process.
func newStage(root, mods, init string) (*stage, error) {
	s := &stage{root: root, mods: mods}
	s.tree.Dir("proc", "sys", "dev", "run", "tmp", "root", "var", "etc",
		"usr/bin", "usr/sbin", "usr/lib", "usr/lib64")
	for _, l := range []string{"bin", "sbin", "lib", "lib64"} {
		s.tree.Symlink(l, "usr/"+l)
	}
	s.tree.Symlink("var/run", "../run")
	s.tree.File("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	s.tree.File("etc/group", 0o644, []byte("root:x:0:\n"))
	script, err := sources.ReadFile("initramfs/" + init)
	if err != nil {
		return nil, err
	}
	s.tree.File("init", 0o755, script)
	return s, s.put("usr/bin/busybox")
}

// merged is where a packaged path is in the image.
func merged(p string) string {
	if first, _, ok := strings.Cut(p, "/"); ok && slices.Contains([]string{"bin", "sbin", "lib", "lib64"}, first) {
		return "usr/" + p
	}
	return p
}

// find gives the unpacked file of a path, whichever side of the /usr merge its
// package has it on.
func (s *stage) find(p string) (string, error) {
	for _, try := range []string{p, strings.TrimPrefix(p, "usr/")} {
		if st, err := os.Stat(filepath.Join(s.root, try)); err == nil && st.Mode().IsRegular() {
			return filepath.Join(s.root, try), nil
		}
	}
	return "", fmt.Errorf("no package has the file /%s", p)
}

// put adds files under their own names.
func (s *stage) put(paths ...string) error {
	for _, p := range paths {
		if err := s.putAs(merged(p), p); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) putAs(name, p string) error {
	f, err := s.find(p)
	if err != nil {
		return err
	}
	s.tree.Copy(name, f)
	return nil
}

// putDir adds a folder with all that is below it.
func (s *stage) putDir(dir string) error {
	top := filepath.Join(s.root, dir)
	return filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(s.root, p)
		if err != nil {
			return err
		}
		return s.put(rel)
	})
}

// loader is the dynamic linker, which each dynamic program names by this path.
const loader = "lib64/ld-linux-x86-64.so.2"

// libDirs are searched for shared libraries, in this order.
var libDirs = []string{"lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/systemd"}

// program adds programs together with the shared libraries that they need.
func (s *stage) program(paths ...string) error {
	for _, p := range paths {
		if err := s.put(p); err != nil {
			return err
		}
		f, err := s.find(p)
		if err != nil {
			return err
		}
		if err := s.libraries(f); err != nil {
			return fmt.Errorf("libraries of %s: %w", p, err)
		}
	}
	return nil
}

func (s *stage) libraries(file string) error {
	f, err := elf.Open(file)
	if err != nil {
		return err
	}
	needed, err := f.ImportedLibraries()
	f.Close()
	if err != nil {
		return err
	}
	for _, lib := range needed {
		if lib == path.Base(loader) {
			continue
		}
		found, err := s.library(lib)
		if err != nil {
			return err
		}
		name := path.Join("usr/lib/x86_64-linux-gnu", lib)
		if s.tree.Has(name) {
			continue
		}
		s.tree.Copy(name, found)
		if err := s.libraries(found); err != nil {
			return err
		}
	}
	if len(needed) > 0 && !s.tree.Has(merged(loader)) {
		found, err := s.library(path.Base(loader))
		if err != nil {
			return err
		}
		s.tree.Copy(merged(loader), found)
	}
	return nil
}

func (s *stage) library(name string) (string, error) {
	for _, dir := range libDirs {
		if f, err := s.find(path.Join(dir, name)); err == nil {
			return f, nil
		}
	}
	return "", fmt.Errorf("no package has the library %s", name)
}

// module adds kernel modules with the modules they depend on. Names that are
// no module are taken as built into the kernel.
func (s *stage) module(names ...string) error {
	for _, name := range names {
		name = strings.ReplaceAll(name, "-", "_")
		if slices.Contains(s.modules, name) {
			continue
		}
		file, err := s.moduleFile(name)
		if err != nil {
			return err
		}
		if file == "" {
			continue
		}
		deps, err := moduleDepends(file)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		if err := s.module(deps...); err != nil {
			return err
		}
		s.modules = append(s.modules, name)
		s.tree.Copy("modules/"+name+".ko", file)
	}
	return nil
}

func (s *stage) moduleFile(name string) (found string, err error) {
	err = filepath.WalkDir(s.mods, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.ReplaceAll(d.Name(), "-", "_") == name+".ko" {
			found = p
			return fs.SkipAll
		}
		return err
	})
	return found, err
}

// moduleDepends reads the names after "depends=" in a module's information.
func moduleDepends(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("%s has no .modinfo", file)
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for entry := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}

// write finishes the image; more archives may be appended to the file.
func (s *stage) write(file string) error {
	if len(s.modules) > 0 {
		s.tree.File("modules/order", 0o644, []byte(strings.Join(s.modules, "\n")+"\n"))
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if _, err := s.tree.WriteTo(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
