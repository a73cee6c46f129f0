package hostapi

import (
	"context"
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// errorDomain marks the status detail that carries a cloud.Kind.
const errorDomain = "godwit.cloud"

// kindCodes gives each kind the gRPC code that a foreign client would understand best. Several kinds share a code; the detail tells them apart.
var kindCodes = map[cloud.Kind]codes.Code{
	cloud.KindInternal:        codes.Internal,
	cloud.KindInvalid:         codes.InvalidArgument,
	cloud.KindUnauthenticated: codes.Unauthenticated,
	cloud.KindForbidden:       codes.PermissionDenied,
	cloud.KindNotFound:        codes.NotFound,
	cloud.KindConflict:        codes.FailedPrecondition,
	cloud.KindTooLarge:        codes.OutOfRange,
	cloud.KindQuota:           codes.ResourceExhausted,
	cloud.KindNoValidHost:     codes.ResourceExhausted,
	cloud.KindUnavailable:     codes.Unavailable,
	cloud.KindStale:           codes.FailedPrecondition,
	cloud.KindUnsupported:     codes.Unimplemented,
	cloud.KindCancelled:       codes.Canceled,
	cloud.KindExhausted:       codes.ResourceExhausted,
}

// codeKinds is for statuses without our detail: made by gRPC itself.
var codeKinds = map[codes.Code]cloud.Kind{
	codes.Canceled:           cloud.KindCancelled,
	codes.Unknown:            cloud.KindInternal,
	codes.InvalidArgument:    cloud.KindInvalid,
	codes.DeadlineExceeded:   cloud.KindUnavailable,
	codes.NotFound:           cloud.KindNotFound,
	codes.AlreadyExists:      cloud.KindConflict,
	codes.PermissionDenied:   cloud.KindForbidden,
	codes.ResourceExhausted:  cloud.KindExhausted,
	codes.FailedPrecondition: cloud.KindConflict,
	codes.Aborted:            cloud.KindStale,
	codes.OutOfRange:         cloud.KindTooLarge,
	codes.Unimplemented:      cloud.KindUnsupported,
	codes.Internal:           cloud.KindInternal,
	codes.Unavailable:        cloud.KindUnavailable,
	codes.DataLoss:           cloud.KindInternal,
	codes.Unauthenticated:    cloud.KindUnauthenticated,
}

// ToStatus turns an error into what goes on the wire. Nil stays nil; an error that already is a gRPC status keeps it.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	var e *cloud.Error
	if !errors.As(err, &e) {
		if _, ok := status.FromError(err); ok {
			return err
		}
		switch {
		case errors.Is(err, context.Canceled):
			e = &cloud.Error{Kind: cloud.KindCancelled}
		case errors.Is(err, context.DeadlineExceeded):
			e = &cloud.Error{Kind: cloud.KindUnavailable}
		default:
			e = &cloud.Error{Kind: cloud.KindInternal}
		}
	}
	plain := status.New(kindCodes[e.Kind], err.Error())
	detailed, derr := plain.WithDetails(&errdetails.ErrorInfo{Reason: e.Kind.String(), Domain: errorDomain})
	if derr != nil {
		return plain.Err()
	}
	return detailed.Err()
}

// remoteError is what the other end said. It keeps the identity of a local cancellation or deadline for errors.Is.
type remoteError struct {
	text  string
	local error // context.Canceled, context.DeadlineExceeded or nil
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.local }

// FromStatus turns an error that came from a gRPC call made under ctx into a cloud.Error. The caller's own cancellation is
// KindCancelled; a connection that was closed under the call is KindUnavailable, though gRPC calls both "canceled".
func FromStatus(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	if kind, ok := detailKind(st); ok {
		return &cloud.Error{Kind: kind, Err: &remoteError{text: st.Message(), local: ctx.Err()}}
	}
	kind := codeKinds[st.Code()]
	if st.Code() == codes.Canceled && ctx.Err() == nil {
		kind = cloud.KindUnavailable
	}
	return &cloud.Error{Kind: kind, Err: &remoteError{text: st.Message(), local: ctx.Err()}}
}

func detailKind(st *status.Status) (cloud.Kind, bool) {
	for _, d := range st.Details() {
		info, ok := d.(*errdetails.ErrorInfo)
		if !ok || info.GetDomain() != errorDomain {
			continue
		}
		for _, k := range cloud.Kinds() {
			if k.String() == info.GetReason() {
				return k, true
			}
		}
	}
	return 0, false
}

// The interceptors apply the two translations to every call, so that neither side sees a gRPC status.

func unaryServerErrors(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	reply, err := handler(ctx, req)
	return reply, ToStatus(err)
}

func streamServerErrors(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return ToStatus(handler(srv, stream))
}

func unaryClientErrors(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return FromStatus(ctx, invoke(ctx, method, req, reply, cc, opts...))
}

func streamClientErrors(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := open(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, FromStatus(ctx, err)
	}
	return translatedStream{stream}, nil
}

// translatedStream gives the errors of a stream's messages their kinds. io.EOF stays what it is.
type translatedStream struct{ grpc.ClientStream }

// SendMsg implements grpc.ClientStream.
func (s translatedStream) SendMsg(m any) error {
	return FromStatus(s.Context(), s.ClientStream.SendMsg(m))
}

// RecvMsg implements grpc.ClientStream.
func (s translatedStream) RecvMsg(m any) error {
	return FromStatus(s.Context(), s.ClientStream.RecvMsg(m))
}
