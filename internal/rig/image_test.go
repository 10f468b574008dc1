package rig

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// kernelImage makes an ELF image with one loadable segment: used bytes and then
// zeros up to size.
func kernelImage(used, size int) []byte {
	const start = 4096
	var b bytes.Buffer
	h := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1,
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	p := elf.Prog64{Type: uint32(elf.PT_LOAD), Off: start, Filesz: uint64(size), Memsz: uint64(size)}
	_ = binary.Write(&b, binary.LittleEndian, h)
	_ = binary.Write(&b, binary.LittleEndian, p)
	b.Write(make([]byte, start-b.Len()))
	b.Write(bytes.Repeat([]byte{0x90}, used))
	b.Write(make([]byte, size-used))
	return b.Bytes()
}

func TestTrimKernel_cutsTrailingZerosOnly(t *testing.T) {
	const used, size = 5000, 100 << 10
	got, err := trimKernel(kernelImage(used, size))
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(got))
	if err != nil {
		t.Fatal(err)
	}
	p := f.Progs[0]
	if p.Filesz != 8192 || p.Memsz != size || len(got) != 4096+8192 {
		t.Errorf("segment has %d bytes in the file and %d in memory, file %d", p.Filesz, p.Memsz, len(got))
	}
	content := make([]byte, used)
	if _, err := p.ReadAt(content, 0); err != nil || !bytes.Equal(content, bytes.Repeat([]byte{0x90}, used)) {
		t.Errorf("the segment's content changed (%v)", err)
	}
}

func TestBzPayload_refusesDamage(t *testing.T) {
	good := make([]byte, 4096)
	copy(good[bzMagic:], "HdrS")
	binary.LittleEndian.PutUint16(good[bzVersion:], 0x020f)
	good[bzSetupSects] = 1
	payload := append([]byte("\xfd7zXZ\x00 stream"), 1, 2, 3, 4)
	binary.LittleEndian.PutUint32(good[bzPayloadOffset:], 100)
	binary.LittleEndian.PutUint32(good[bzPayloadLength:], uint32(len(payload)))
	copy(good[2*bzSector+100:], payload)
	got, err := bzPayload(good)
	if err != nil || string(got) != "\xfd7zXZ\x00 stream" {
		t.Errorf("payload %q, error %v", got, err)
	}
	for name, damage := range map[string]func(b []byte) []byte{
		"short":         func(b []byte) []byte { return b[:100] },
		"magic":         func(b []byte) []byte { b[bzMagic] = 0; return b },
		"old protocol":  func(b []byte) []byte { b[bzVersion] = 7; return b },
		"beyond":        func(b []byte) []byte { binary.LittleEndian.PutUint32(b[bzPayloadLength:], 1<<31); return b },
		"empty":         func(b []byte) []byte { binary.LittleEndian.PutUint32(b[bzPayloadLength:], 0); return b },
		"other packing": func(b []byte) []byte { b[2*bzSector+100] = 0; return b },
	} {
		if got, err := bzPayload(damage(bytes.Clone(good))); err == nil || got != nil {
			t.Errorf("%s: payload %q, error %v", name, got, err)
		}
	}
}

func TestCheckTools_namesTheCommand(t *testing.T) {
	bin := t.TempDir()
	for tool := range hostTools {
		if tool != emulator && tool != "xz" {
			if err := os.WriteFile(filepath.Join(bin, tool), nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("PATH", bin)
	err := checkTools()
	if err == nil || !strings.Contains(err.Error(), "apt-get install --no-install-recommends qemu-system-x86 xz-utils") {
		t.Errorf("missing tools reported as: %v", err)
	}
}

func TestMerged(t *testing.T) {
	for in, want := range map[string]string{
		"lib/x/y": "usr/lib/x/y", "usr/lib/x": "usr/lib/x", "library/x": "library/x", "boot/vmlinuz": "boot/vmlinuz",
	} {
		if got := merged(in); got != want {
			t.Errorf("merged(%q) = %q, want %q", in, got, want)
		}
	}
}
