import {
  create,
  createFileRegistry,
  type DescMessage,
  fromBinary,
  type MessageInitShape,
  toBinary
} from "@bufbuild/protobuf"
import {
  FieldDescriptorProto_Label,
  FieldDescriptorProto_Type,
  type FileDescriptorProtoSchema,
  FileDescriptorSetSchema
} from "@bufbuild/protobuf/wkt"
import { readFileSync } from "node:fs"

const text = (name: string, number: number) => ({
  name,
  number,
  type: FieldDescriptorProto_Type.STRING,
  label: FieldDescriptorProto_Label.OPTIONAL
})

const message = (name: string, number: number, typeName: string, label = FieldDescriptorProto_Label.OPTIONAL) => ({
  name,
  number,
  type: FieldDescriptorProto_Type.MESSAGE,
  label,
  typeName
})

type File = MessageInitShape<typeof FileDescriptorProtoSchema>

const money: File = {
  name: "shop/money.proto",
  package: "shop",
  syntax: "proto3",
  messageType: [{ name: "Money", field: [text("currency", 1)] }]
}

/** Messages beside and inside each other, a map, and an import. */
const parcel: File = {
  name: "shop/parcel.proto",
  package: "shop",
  syntax: "proto3",
  dependency: ["shop/money.proto", "google/protobuf/empty.proto"],
  messageType: [
    { name: "First", field: [text("id", 1)] },
    {
      name: "Parcel",
      field: [
        text("id", 1),
        message("tags", 2, ".shop.Parcel.TagsEntry", FieldDescriptorProto_Label.REPEATED),
        message("price", 3, ".shop.Money"),
        message("label", 4, ".shop.Parcel.Label"),
        message("nothing", 5, ".google.protobuf.Empty")
      ],
      nestedType: [
        { name: "TagsEntry", field: [text("key", 1), text("value", 2)], options: { mapEntry: true } },
        { name: "Seal", field: [text("id", 1)] },
        {
          name: "Label",
          field: [text("id", 1)],
          nestedType: [{ name: "Ink", field: [text("id", 1)] }]
        }
      ]
    }
  ]
}

const empty: File = {
  name: "google/protobuf/empty.proto",
  package: "google.protobuf",
  syntax: "proto3",
  messageType: [{ name: "Empty" }]
}

const set = create(FileDescriptorSetSchema, { file: [empty, money, parcel] })

/** The files, as a compiler gives them. */
export const files: Uint8Array = toBinary(FileDescriptorSetSchema, set)

const registry = createFileRegistry(set)

/** A message type of the files. */
export const typeOf = (name: string): DescMessage => {
  const found = registry.getMessage(name)
  if (found === undefined) throw new Error(`no ${name}`)
  return found
}

const orders = fromBinary(FileDescriptorSetSchema, readFileSync(new URL("../protobuf/order.binpb", import.meta.url)))

/** The second message of `order.proto`, which imports nothing. */
export const order = ((): DescMessage => {
  const found = createFileRegistry(orders).getMessage("shop.Order")
  if (found === undefined) throw new Error("no shop.Order")
  return found
})()

/** The text of `order.proto`. */
export const orderText = readFileSync(new URL("../protobuf/order.proto", import.meta.url), "utf8")

/** The same files as texts. */
export const texts = {
  "shop/money.proto": "syntax = \"proto3\";\npackage shop;\nmessage Money { string currency = 1; }\n",
  "shop/parcel.proto": `syntax = "proto3";
package shop; // message Comment {
import "shop/money.proto";
import "google/protobuf/empty.proto";
/* message Other { } */
message First { string id = 1 [json_name = "message No {"]; }
message Parcel {
  string id = 1;
  map<string, string> tags = 2;
  Money price = 3;
  Label label = 4;
  google.protobuf.Empty nothing = 5;
  enum Kind { NONE = 0; }
  message Seal { string id = 1; }
  message Label {
    oneof choice { string id = 1; }
    message Ink { string id = 1; }
  }
}
`
}
