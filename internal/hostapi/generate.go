package hostapi

//go:generate sh -c "protoc -I . --go_out=hostpb --go_opt=paths=source_relative --go-grpc_out=hostpb --go-grpc_opt=paths=source_relative --plugin=protoc-gen-go=../../scripts/protoc-gen-go --plugin=protoc-gen-go-grpc=../../scripts/protoc-gen-go-grpc host.proto volume.proto"
