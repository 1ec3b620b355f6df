"""What finds the people nearest to a face; all of it can be made again from the rows."""
