"""AWS: one table or one service per file. Rows and SDK shapes stay in here; known error codes become our errors."""
