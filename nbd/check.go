package nbd

import "fmt"

// refused is an error for a request that is not allowed: a number for the client's program, a text for its user.
func refused(e Error, format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), e)
}

// allowed are the flags each command may carry, besides CmdFlagFUA, which may come with any.
var allowed = map[Command]CommandFlags{
	CmdRead: CmdFlagDF, CmdWrite: 0, CmdFlush: 0, CmdTrim: 0, CmdCache: 0,
	CmdWriteZeroes: CmdFlagNoHole | CmdFlagFastZero, CmdBlockStatus: CmdFlagReqOne,
}

// needs are the export's flags without which a command is refused.
var needs = map[Command]ExportFlags{CmdFlush: FlagFlush, CmdTrim: FlagTrim, CmdWriteZeroes: FlagWriteZeroes, CmdCache: FlagCache}

// check refuses what a device is not to see.
func (c *Conn) check(r *Request) error {
	if c.draining {
		return refused(Shutdown, "%v refused", r.Command)
	}
	flags, known := allowed[r.Command]
	if !known {
		return refused(Invalid, "%v is not known", r.Command)
	}
	if c.info.Flags&FlagFUA != 0 {
		flags |= CmdFlagFUA
	}
	if !c.structured {
		flags &^= CmdFlagDF
	}
	if c.info.Flags&FlagFastZero == 0 {
		flags &^= CmdFlagFastZero
	}
	if extra := r.Flags &^ flags; extra != 0 {
		return refused(Invalid, "%v with flags %#x", r.Command, uint16(extra))
	}
	if need := needs[r.Command]; c.info.Flags&need != need {
		return refused(Invalid, "%v is not offered by this export", r.Command)
	}
	writes := r.Command == CmdWrite || r.Command == CmdTrim || r.Command == CmdWriteZeroes
	if writes && c.info.Flags&FlagReadOnly != 0 {
		return refused(NotPermitted, "%v on a read-only export", r.Command)
	}
	switch r.Command {
	case CmdFlush:
		if r.Offset != 0 || r.Length != 0 {
			return refused(Invalid, "flush of a range")
		}
		return nil
	case CmdBlockStatus:
		if !c.status {
			return refused(Invalid, "block status without a metadata context")
		}
		if r.Length == 0 {
			return refused(Invalid, "block status of nothing")
		}
	case CmdRead, CmdWrite:
		if r.Length > c.info.PayloadMax {
			return refused(Invalid, "%v of %d bytes, the most is %d", r.Command, r.Length, c.info.PayloadMax)
		}
	default: // any length
	}
	return c.checkRange(r, writes)
}

func (c *Conn) checkRange(r *Request, writes bool) error {
	if size := c.device.Size(); r.Offset > size || uint64(r.Length) > size-r.Offset {
		e := Invalid
		if writes {
			e = NoSpace
		}
		return refused(e, "%v of %d bytes at %d reaches beyond the end at %d", r.Command, r.Length, r.Offset, size)
	}
	if unit := uint64(c.info.BlockMin); r.Offset%unit != 0 || uint64(r.Length)%unit != 0 {
		return refused(Invalid, "%v of %d bytes at %d is not in units of %d", r.Command, r.Length, r.Offset, unit)
	}
	return nil
}
