package nbd

import "fmt"

// Magic numbers of the protocol.
const (
	magicGreeting   uint64 = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption     uint64 = 0x49484156454f5054 // "IHAVEOPT"
	magicOptionRep  uint64 = 0x0003e889045565a9
	magicRequest    uint32 = 0x25609513
	magicSimple     uint32 = 0x67446698
	magicStructured uint32 = 0x668e33ef
)

// Flags of the handshake; the client answers with the same bits.
const (
	handshakeFixedNewstyle = 1 << 0
	handshakeNoZeroes      = 1 << 1
)

// Option is what a client asks for during negotiation.
type Option uint32

// The options.
const (
	OptExportName      Option = 1
	OptAbort           Option = 2
	OptList            Option = 3
	OptStartTLS        Option = 5
	OptInfo            Option = 6
	OptGo              Option = 7
	OptStructuredReply Option = 8
	OptListMetaContext Option = 9
	OptSetMetaContext  Option = 10
	OptExtendedHeaders Option = 11 // known by name only: refused
)

// optionReply is the type of a reply to an option.
type optionReply uint32

const (
	repAck         optionReply = 1
	repServer      optionReply = 2
	repInfo        optionReply = 3
	repMetaContext optionReply = 4

	repError            optionReply = 1 << 31
	repErrUnsup                     = repError | 1
	repErrPolicy                    = repError | 2
	repErrInvalid                   = repError | 3
	repErrPlatform                  = repError | 4
	repErrTLSRequired               = repError | 5
	repErrUnknown                   = repError | 6
	repErrShutdown                  = repError | 7
	repErrBlockSizeReqd             = repError | 8
	repErrTooBig                    = repError | 9
)

// The kinds of information in a reply to OptInfo and OptGo.
const (
	infoExport      uint16 = 0
	infoName        uint16 = 1
	infoDescription uint16 = 2
	infoBlockSize   uint16 = 3
)

// ExportFlags say what an export can do. They are the protocol's transmission flags.
type ExportFlags uint16

// The flags of an export. FlagHasFlags and FlagDF are added by the server.
const (
	FlagHasFlags    ExportFlags = 1 << 0
	FlagReadOnly    ExportFlags = 1 << 1
	FlagFlush       ExportFlags = 1 << 2  // CmdFlush works
	FlagFUA         ExportFlags = 1 << 3  // CmdFlagFUA works
	FlagRotational  ExportFlags = 1 << 4  // schedule like for a spinning disk
	FlagTrim        ExportFlags = 1 << 5  // CmdTrim works
	FlagWriteZeroes ExportFlags = 1 << 6  // CmdWriteZeroes works, with CmdFlagNoHole
	FlagDF          ExportFlags = 1 << 7  // CmdFlagDF works
	FlagMultiConn   ExportFlags = 1 << 8  // what one connection has flushed, all see
	FlagCache       ExportFlags = 1 << 10 // CmdCache works
	FlagFastZero    ExportFlags = 1 << 11 // CmdFlagFastZero works
)

// Command is what a request asks for.
type Command uint16

// The commands.
const (
	CmdRead        Command = 0
	CmdWrite       Command = 1
	CmdDisc        Command = 2
	CmdFlush       Command = 3
	CmdTrim        Command = 4
	CmdCache       Command = 5
	CmdWriteZeroes Command = 6
	CmdBlockStatus Command = 7
)

var commandNames = [...]string{"read", "write", "disconnect", "flush", "trim", "cache", "write zeroes", "block status"}

// String returns the command's name.
func (c Command) String() string {
	if int(c) < len(commandNames) {
		return commandNames[c]
	}
	return fmt.Sprintf("command %d", uint16(c))
}

// CommandFlags qualify a command.
type CommandFlags uint16

// The flags of commands.
const (
	CmdFlagFUA      CommandFlags = 1 << 0 // reply when the data is on stable storage
	CmdFlagNoHole   CommandFlags = 1 << 1 // write zeroes: keep the space allocated
	CmdFlagDF       CommandFlags = 1 << 2 // read: one chunk of data at most
	CmdFlagReqOne   CommandFlags = 1 << 3 // block status: one extent
	CmdFlagFastZero CommandFlags = 1 << 4 // write zeroes: only if that is faster than writing, else fail with NotSupported
)

// StatusFlags describe an extent in the metadata context base:allocation.
type StatusFlags uint32

// The flags of an extent.
const (
	StatusHole StatusFlags = 1 << 0 // nothing is allocated
	StatusZero StatusFlags = 1 << 1 // reads as zeros
)

// Extent is a stretch of an export whose status is the same.
type Extent struct {
	Length uint64 // bytes
	Flags  StatusFlags
}

// Chunks of structured replies.
const (
	chunkDone uint16 = 1 << 0 // flag: the last of its reply

	chunkNone        uint16 = 0
	chunkData        uint16 = 1
	chunkHole        uint16 = 2
	chunkBlockStatus uint16 = 5
	chunkIsError     uint16 = 1 << 15
	chunkError              = chunkIsError | 1
	chunkErrorOffset        = chunkIsError | 2
)

const (
	greetingBytes        = 18
	clientFlagsBytes     = 4
	optionHeadBytes      = 16
	optionReplyHeadBytes = 20
	exportNameReplyBytes = 10
	exportNameZeroes     = 124
	requestBytes         = 28
	simpleReplyBytes     = 16
	chunkHeadBytes       = 20
	chunkOffsetBytes     = 8
	chunkHoleBytes       = 12
	chunkErrorBytes      = 6

	// stringMax is the protocol's limit of names and messages.
	stringMax = 4096

	// ContextAllocation is the metadata context that this package knows.
	ContextAllocation = "base:allocation"
	contextNamespace  = "base:"
	// allocationID is the number we give it; the protocol leaves the choice to the server.
	allocationID uint32 = 1
)
