/** Settings of Redis servers, sentinels and clusters for TLS. */
import type { Certificates } from "./Certificates.ts"

/** The files of the certificates of a listener with TLS. */
export interface TlsListener {
  readonly certFile: string
  readonly keyFile: string
  readonly caFile: string
  readonly clients: "required" | "optional"
}

/** Quotes a value of redis.conf. */
export const quoted = (value: string): string => `"${value.replace(/["\\]/g, "\\$&")}"`

/** The configuration of a listener with TLS. */
export const tlsLines = (port: number, tls: TlsListener): ReadonlyArray<string> => [
  `tls-port ${port}`,
  `tls-cert-file ${quoted(tls.certFile)}`,
  `tls-key-file ${quoted(tls.keyFile)}`,
  `tls-ca-cert-file ${quoted(tls.caFile)}`,
  `tls-auth-clients ${tls.clients === "required" ? "yes" : "optional"}`
]

/** The settings by which servers reach each other by TLS. */
export const amongServers = (certificates: Certificates): Readonly<Record<string, string>> => ({
  "tls-replication": "yes",
  "tls-client-cert-file": quoted(certificates.client.certFile),
  "tls-client-key-file": quoted(certificates.client.keyFile)
})

/** A listener with the server's certificate, for clients with or without one. */
export const listenerOf = ({ caFile, server }: Certificates): TlsListener => ({
  certFile: server.certFile,
  keyFile: server.keyFile,
  caFile,
  clients: "optional"
})

/** The port of the TLS listener. */
export const tlsPortOf = ({ tlsAddress = "" }: { readonly tlsAddress: string | undefined }): number =>
  Number(tlsAddress.slice(tlsAddress.indexOf(":") + 1))
