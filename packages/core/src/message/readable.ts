/** The value of a getter of a driver or a user, or a default where it throws. */
export const readable = <A>(read: () => A, otherwise: A): A => {
  try {
    return read()
  } catch {
    return otherwise
  }
}
