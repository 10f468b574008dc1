package rig

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// Offsets in the header of a bzImage (Linux's Documentation/arch/x86/boot.rst).
const (
	bzSetupSects    = 0x1f1
	bzMagic         = 0x202
	bzVersion       = 0x206
	bzPayloadOffset = 0x248
	bzPayloadLength = 0x24c
	bzSector        = 512
)

// uncompressHypervisor writes Xen's ELF image out of its gzip file.
func uncompressHypervisor(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	image, err := io.ReadAll(z)
	if err != nil {
		return err
	}
	return os.WriteFile(to, image, 0o666)
}

// uncompressKernel writes the ELF image that is inside a bzImage. Under
// emulation it costs seconds to uncompress it at each boot of a domain.
func uncompressKernel(ctx context.Context, from, to string) error {
	bz, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	payload, err := bzPayload(bz)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	cmd := exec.CommandContext(ctx, "xz", "--decompress", "--single-stream", "--stdout")
	cmd.Stdin = bytes.NewReader(payload)
	vmlinux, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("uncompressing %s: %w", from, err)
	}
	if vmlinux, err = trimKernel(vmlinux); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	return os.WriteFile(to, vmlinux, 0o666)
}

// bzPayload is the compressed kernel in a bzImage.
func bzPayload(bz []byte) ([]byte, error) {
	if len(bz) < bzPayloadLength+4 || string(bz[bzMagic:bzMagic+4]) != "HdrS" ||
		binary.LittleEndian.Uint16(bz[bzVersion:]) < 0x0208 {
		return nil, errors.New("not a bzImage of boot protocol 2.08 or later")
	}
	start := (int64(bz[bzSetupSects])+1)*bzSector + int64(binary.LittleEndian.Uint32(bz[bzPayloadOffset:]))
	end := start + int64(binary.LittleEndian.Uint32(bz[bzPayloadLength:]))
	const sizeField = 4 // the build puts the uncompressed size behind the stream
	if end > int64(len(bz)) || end-start < sizeField {
		return nil, errors.New("the payload is outside of the file")
	}
	payload := bz[start : end-sizeField]
	if !bytes.HasPrefix(payload, []byte("\xfd7zXZ\x00")) {
		return nil, errors.New("the payload is not xz")
	}
	return payload, nil
}

// trimKernel cuts the zeros that stand for .bss off the loadable segments and
// drops the section table: a third of the file, which emulated machines would
// copy around at each boot.
func trimKernel(image []byte) ([]byte, error) {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, err
	}
	if f.Class != elf.ELFCLASS64 || f.ByteOrder != binary.LittleEndian {
		return nil, errors.New("not a 64-bit little-endian ELF image")
	}
	// Offsets from Elf64_Ehdr and Elf64_Phdr.
	const ehdrPhoff, ehdrShoff, ehdrShnum, phdrFilesz, phdrSize, page = 32, 40, 60, 32, 56, 4096
	phoff := binary.LittleEndian.Uint64(image[ehdrPhoff:])
	var end uint64
	for i, p := range f.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		if p.Off+p.Filesz > uint64(len(image)) {
			return nil, errors.New("a segment is outside of the file")
		}
		used := uint64(len(bytes.TrimRight(image[p.Off:p.Off+p.Filesz], "\x00")))
		size := min(p.Filesz, (used+page-1)&^(page-1))
		at := phoff + uint64(i)*phdrSize + phdrFilesz
		binary.LittleEndian.PutUint64(image[at:], size)
		end = max(end, p.Off+size)
	}
	binary.LittleEndian.PutUint64(image[ehdrShoff:], 0)
	clear(image[ehdrShnum : ehdrShnum+4])
	return image[:end], nil
}
